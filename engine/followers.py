"""The ranks of a tensor-parallel model after the first, as the first sees them: started, fed with passes, watched.

Each is a process of its own (`engine.tensor_parallel_worker`) that does what it is told and never samples. It ends with
this process and when its link closes, so none stays behind. If one dies, the model is lost: `check` and the exchange
within a pass say so, and whoever runs the engine starts it again.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.child_process import import_path
from engine.errors import EngineDeadError, ModelError
from engine.log_format import log_format_in_use
from engine.options import EngineOptions
from engine.rank_group import RankGroup
from engine.rank_link import (
    CacheSize,
    Failed,
    Join,
    Loaded,
    Pass,
    RankLink,
    RankMessage,
    Started,
    WriteBlocks,
)
from engine.tensor_parallel import Shard
from kernels.interface import RowBatch
from scheduler.step_plan import CarryRestore

WORKER_MODULE = "engine.tensor_parallel_worker"
START_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 1800.0
"""After this rank has loaded; the others read as much from the same disk."""
EXIT_WAIT_S = 1.0  # how long a process may take to end after its link has closed


@dataclass(frozen=True, slots=True)
class Follower:
    """One process."""

    rank: int
    process: subprocess.Popen[bytes]
    link: RankLink

    @classmethod
    def start(cls, rank: int) -> "Follower":
        link, theirs = RankLink.pair()
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", WORKER_MODULE),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": import_path()},
                pass_fds=[theirs.fileno()],
            )
        return cls(rank, process, link)

    def send(self, message: RankMessage) -> None:
        """Send a message.

        Raises:
            EngineDeadError: the process is gone.
        """
        try:
            self.link.send(message)
        except EOFError:
            raise self._gone() from None

    def receive(self, timeout: float) -> RankMessage:
        """The next message, after at most `timeout` seconds.

        Raises:
            EngineDeadError: the process is gone, says nothing, or failed.
            ModelError: the process can't load the model.
        """
        try:
            message = self.link.receive(timeout)
        except EOFError:
            raise self._gone() from None
        if message is None:
            raise EngineDeadError(f"Tensor-parallel rank {self.rank} did not load within {timeout:.0f} s.")
        if isinstance(message, Failed):
            text = f"Tensor-parallel rank {self.rank}: {message.text}"
            raise ModelError(text) if message.model_error else EngineDeadError(text)
        return message

    def check(self) -> None:
        """See that the process is alive.

        Raises:
            EngineDeadError: it is gone.
        """
        if self.process.poll() is not None:
            raise self._gone()

    def _gone(self) -> EngineDeadError:
        try:
            code = self.process.wait(EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            return EngineDeadError(f"Tensor-parallel rank {self.rank} closed its link.")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return EngineDeadError(f"Tensor-parallel rank {self.rank} ended with {how}.")


class Followers:
    """All of them; none if the model isn't split."""

    def __init__(self, followers: Sequence[Follower] = ()) -> None:
        self._followers = list(followers)
        # Also called when this object is forgotten and when the interpreter exits.
        self.close = weakref.finalize(self, _stop, self._followers)

    @property
    def is_empty(self) -> bool:
        return not self._followers

    @classmethod
    def start(cls, options: EngineOptions) -> "Followers":
        """Start the processes; they get ready on their own time."""
        return cls([Follower.start(rank) for rank in range(1, options.tensor_parallel_size)])

    def join(self, options: EngineOptions, device: torch.device) -> RankGroup | None:
        """Meet the followers, which then load; None if there are none.

        Raises:
            EngineDeadError, ModelError: one of them failed.
        """
        if not self._followers:
            return None
        # Made with mode 0700. Nobody needs it once all have met.
        with tempfile.TemporaryDirectory(prefix="loopserve-ranks-") as directory:
            store = Path(directory) / "store"
            level = logging.getLogger().level
            for follower in self._followers:
                follower.send(
                    Join(
                        options=options,
                        rank=follower.rank,
                        store=str(store),
                        log_level=level,
                        log_format=log_format_in_use(),
                    )
                )
            for follower in self._followers:
                assert isinstance(follower.receive(START_TIMEOUT_S), Started)
            return RankGroup(Shard(0, options.tensor_parallel_size), store, device)

    def free_memory(self) -> list[int]:
        """What the block pool of each may take; waits until all have loaded.

        Raises:
            EngineDeadError, ModelError: one of them failed.
        """
        found = []
        for follower in self._followers:
            message = follower.receive(LOAD_TIMEOUT_S)
            assert isinstance(message, Loaded)
            found.append(message.free_memory)
        return found

    def make_caches(self, size: CacheSize) -> None:
        """Have all make caches of this size; from then on they wait for passes.

        Raises:
            EngineDeadError: one of them is gone.
        """
        for follower in self._followers:
            follower.send(size)

    def compute(self, batch: RowBatch, restores: list[CarryRestore]) -> None:
        """Have all compute a batch on the host; this rank must then do the same.

        Raises:
            EngineDeadError: one of them is gone.
        """
        if not self._followers:
            return
        message = Pass.of(batch, restores)
        for follower in self._followers:
            follower.send(message)

    def write_blocks(self, blocks: list[int]) -> None:
        """Have all write something into these cache blocks.

        Raises:
            EngineDeadError: one of them is gone.
        """
        for follower in self._followers:
            follower.send(WriteBlocks(blocks))

    def check(self) -> None:
        """See that all are alive, without waiting.

        Raises:
            EngineDeadError: one of them is gone.
        """
        for follower in self._followers:
            follower.check()


def _stop(followers: list[Follower]) -> None:
    """Without asking: they hold nothing that outlives the model."""
    for follower in followers:
        follower.link.close()
        follower.process.kill()
        follower.process.wait()

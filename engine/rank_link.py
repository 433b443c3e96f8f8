"""Messages between the first rank of a tensor-parallel model and the others, over a private pair of sockets.

Not a collective: a follower may wait for its next pass as long as it likes, and sees the end of the stream as soon as
the first rank is gone. MessagePack of typed structs, nothing executable.
"""

import socket
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import torch

from engine.log_format import LogFormat
from engine.options import EngineOptions
from engine.staging import TENSORS, pack, packed_size, views
from kernels.interface import RowBatch
from scheduler.step_plan import CarryRestore

_SCALARS = [name for name in RowBatch.__dataclass_fields__ if name not in TENSORS]


class Join(msgspec.Struct, frozen=True, tag=True):
    """Load this rank of the model.

    Attributes:
        store: file through which the ranks meet.
        log_level: of the follower's log, as `logging` numbers them.
        log_format: of its lines.
    """

    options: EngineOptions
    rank: int
    store: str
    log_level: int
    log_format: LogFormat


class Started(msgspec.Struct, frozen=True, tag=True):
    """The follower runs, has its device, and goes to meet the others."""


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The follower's weights are loaded.

    Attributes:
        free_memory: bytes that its block pool may take by default.
    """

    free_memory: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The follower could not load; it ends.

    Attributes:
        model_error: the model or an option is at fault.
    """

    text: str
    model_error: bool


class CacheSize(msgspec.Struct, frozen=True, tag=True):
    """What the first rank decided for all: make the caches, then compute passes."""

    num_blocks: int
    num_carry_slots: int
    max_model_len: int


class Pass(msgspec.Struct, frozen=True, tag=True):
    """One pass.

    Attributes:
        restores: as in `StepPlan`.
        shapes: of the batch's tensors, in the order of `staging.TENSORS`.
        scalars: the batch's other fields.
        values: the batch's tensors, int32, packed as for a device.
    """

    restores: list[CarryRestore]
    shapes: list[list[int]]
    scalars: dict[str, int]
    values: bytearray

    @classmethod
    def of(cls, batch: RowBatch, restores: list[CarryRestore]) -> "Pass":
        values = bytearray(4 * packed_size(batch))
        pack(batch, torch.frombuffer(values, dtype=torch.int32))
        return cls(
            restores,
            [list(getattr(batch, name).shape) for name in TENSORS],
            {name: getattr(batch, name) for name in _SCALARS},
            values,
        )

    def batch(self) -> RowBatch:
        """The batch on the host."""
        values = torch.frombuffer(self.values, dtype=torch.int32)
        fields: dict[str, Any] = views([torch.Size(shape) for shape in self.shapes], values)
        return RowBatch(**(fields | self.scalars))


class WriteBlocks(msgspec.Struct, frozen=True, tag=True):
    """Write something into cache blocks that no sequence holds; see `ModelRunner.write_blocks`."""

    blocks: list[int]


RankMessage = Join | Started | Loaded | Failed | CacheSize | Pass | WriteBlocks

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RankMessage)


class RankLink:
    """One end. Closing it, or the process's end, ends the other's `receive` with EOFError."""

    def __init__(self, file_descriptor: int) -> None:
        self._connection = Connection(file_descriptor)

    @classmethod
    def pair(cls) -> tuple["RankLink", socket.socket]:
        """An end for this process, and a socket for the other process to make its end of."""
        ours, theirs = socket.socketpair()
        return cls(ours.detach()), theirs

    def send(self, message: RankMessage) -> None:
        """Hand over a message; waits if the other end is far behind.

        Raises:
            EOFError: the other end is gone.
        """
        try:
            self._connection.send_bytes(_encoder.encode(message))
        except OSError as error:
            raise EOFError(str(error)) from None

    def receive(self, timeout: float | None = None) -> RankMessage | None:
        """The next message; None if none comes within `timeout` seconds.

        Raises:
            EOFError: the other end is gone.
        """
        try:
            if timeout is not None and not self._connection.poll(timeout):
                return None
            return _decoder.decode(self._connection.recv_bytes())
        except OSError as error:
            raise EOFError(str(error)) from None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

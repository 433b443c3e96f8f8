"""Compiles grammars on trial in a process of its own, so that none can hold up or take down the server.

A grammar comes from a client, and how long it compiles can't be told from its looks. One that takes too long costs the
worker its life; what was found out is remembered, so a repeated grammar costs nothing either way.
"""

import asyncio
import hashlib
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.child_process import import_path
from server.errors import UnavailableError
from server.grammar_worker import LENGTH

logger = logging.getLogger(__name__)

WORKER_MODULE = "server.grammar_worker"
MAX_VERDICTS = 4096  # of at most some 400 bytes each
FAILURE_KEPT_S = 60.0
"""How long a grammar is refused that took too long or broke the worker: the machine may just have been busy."""
START_TIMEOUT_S = 60.0
QUEUE_TIMEOUT_S = 20.0
RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a grammar.

    Attributes:
        problem: text for the client, None if it compiles.
        until: monotonic seconds at which this is forgotten.
    """

    problem: str | None
    until: float = float("inf")


class GrammarTrial:
    """One worker process, started when it is first needed, and the verdicts so far. Belongs to one event loop."""

    def __init__(
        self,
        command: Sequence[str],
        timeout: float,
        *,
        on_trial: Callable[[float], None] = lambda seconds: None,
        max_verdicts: int = MAX_VERDICTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            command: the worker's arguments after the module's name; the parent's process id is added.
            timeout: wall seconds that a grammar may take.
            on_trial: told the seconds that each took that was not known.
            max_verdicts: how many are remembered, the most recently used.
        """
        self._command = list(command)
        self._timeout = timeout
        self._on_trial = on_trial
        self._max_verdicts = max_verdicts
        self._clock = clock
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._turn = asyncio.Lock()
        self._worker: asyncio.subprocess.Process | None = None

    @property
    def worker_id(self) -> int | None:
        """Process id of the worker, None if there is none."""
        return None if self._worker is None else self._worker.pid

    async def problem_of(self, grammar: str) -> str | None:
        """What is wrong with a grammar, as text for the client; None if it compiles.

        Raises:
            UnavailableError: the worker is busy with other grammars for too long, or can't start.
        """
        data = grammar.encode()
        key = hashlib.sha256(data).digest()
        verdict = self._remembered(key)
        if verdict is None:
            await self._wait_for_turn()
            try:
                verdict = self._remembered(key) or await self._judge(data)
                self._remember(key, verdict)
            finally:
                self._turn.release()
        return verdict.problem

    async def close(self) -> None:
        """End the worker; may be called twice."""
        worker, self._worker = self._worker, None
        if worker is not None:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()

    def _remembered(self, key: bytes) -> Verdict | None:
        verdict = self._verdicts.get(key)
        if verdict is None or verdict.until <= self._clock():
            return None
        self._verdicts.move_to_end(key)
        return verdict

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        self._verdicts[key] = verdict
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > self._max_verdicts:
            self._verdicts.popitem(last=False)

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(QUEUE_TIMEOUT_S):
                await self._turn.acquire()
        except TimeoutError:
            raise UnavailableError(
                "Too many grammars are waiting to be compiled; please retry later.", retry_after=RETRY_AFTER_S
            ) from None

    async def _judge(self, grammar: bytes) -> Verdict:
        """Ask the worker; one that doesn't answer in time, or not at all, is ended."""
        worker = await self._running()
        started = self._clock()
        try:
            async with asyncio.timeout(self._timeout):
                problem = await _ask(worker, grammar)
            return Verdict(problem or None)
        except TimeoutError:
            await self.close()
            return self._failed(f"The grammar takes more than {self._timeout:g} s to compile; simplify it.")
        except (asyncio.IncompleteReadError, OSError):
            await self.close()
            return self._failed("The grammar takes too much memory or is too deeply nested; simplify it.")
        except BaseException:  # the request was cancelled; an answer to nobody is under way
            await self.close()
            raise
        finally:
            self._on_trial(self._clock() - started)

    def _failed(self, problem: str) -> Verdict:
        logger.warning("the trial compiler was lost to a grammar: %s", problem)
        return Verdict(problem, self._clock() + FAILURE_KEPT_S)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._worker is not None and self._worker.returncode is None:
            return self._worker
        await self.close()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self._worker = await self._spawn()
                await _read(self._worker)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            await self.close()
            logger.exception("the trial compiler could not start")
            raise UnavailableError(
                "Grammars can't be compiled right now; please retry later.", retry_after=RETRY_AFTER_S
            ) from None
        except BaseException:
            await self.close()
            raise
        return self._worker

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", WORKER_MODULE, *self._command, str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": import_path()},
            process_group=0,
        )


async def _ask(worker: asyncio.subprocess.Process, grammar: bytes) -> str:
    assert worker.stdin is not None
    worker.stdin.write(LENGTH.pack(len(grammar)) + grammar)
    await worker.stdin.drain()
    return await _read(worker)


async def _read(worker: asyncio.subprocess.Process) -> str:
    assert worker.stdout is not None
    (length,) = LENGTH.unpack(await worker.stdout.readexactly(LENGTH.size))
    return (await worker.stdout.readexactly(length)).decode()

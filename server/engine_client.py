"""The API process's only way to the engine: streams of outputs, its state, its restarts.

Everything here runs on the event loop of the API process, so there are no locks.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from engine.errors import EngineDeadError
from engine.host import EngineHost
from engine.messages import (
    PROTOCOL_VERSION,
    Abort,
    EngineFailed,
    EngineReady,
    EngineStats,
    Request,
    RequestOutput,
    StepOutputs,
)
from server.engine_totals import totals_only, with_past
from server.error_catalogue import ENGINE_DEAD, FAILED, LOADING, QUEUE_FULL, RESTARTING, SHUTTING_DOWN
from server.errors import UnavailableError
from server.restart_budget import RestartBudget

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3
RESTART_WINDOW_S = 600.0
EXIT_MODEL_ERROR = 2
EXIT_ENGINE_GAVE_UP = 70
RETRY_AFTER_BUSY_S = 1
RETRY_AFTER_LOADING_S = 5


class EngineState(StrEnum):
    """What the API process can do with its engine right now."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineFailure:
    """Why the server has to exit, and with which code."""

    message: str
    exit_code: int


class EngineObserver(Protocol):
    """Told about what happens in the engine; `server.metrics.ServerMetrics` is one."""

    def on_step(self, seconds: float) -> None:
        """One engine step took so long."""

    def on_admitted(self, queued_seconds: float) -> None:
        """The scheduler took a request up for the first time."""


class _Stream:
    """One request in flight: what came for it, or the error that ends it."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.queue: asyncio.Queue[RequestOutput | Exception] = asyncio.Queue()


class EngineClient:
    """Owns the engine host, one after another, and gives each request its own stream."""

    def __init__(
        self,
        make_host: Callable[[], EngineHost],
        observer: EngineObserver,
        *,
        max_in_flight: int,
        heartbeat_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            make_host: makes a host for one life of the engine.
            observer: told about steps and admissions.
            max_in_flight: most requests in flight; the next one is refused with `UnavailableError`.
            heartbeat_timeout: seconds without a heartbeat after which the engine is not `responsive`.
            clock: monotonic seconds.
        """
        self.info: EngineReady | None = None
        self.restarts_total = 0
        self.failure: EngineFailure | None = None
        self._make_host = make_host
        self._observer = observer
        self._max_in_flight = max_in_flight
        self._heartbeat_timeout = heartbeat_timeout
        self._clock = clock
        self._state = EngineState.LOADING
        self._draining = False
        self._host: EngineHost | None = None
        self._streams: dict[str, _Stream] = {}
        self._stats = EngineStats()
        self._past = EngineStats()
        self._budget = RestartBudget(MAX_RESTARTS, RESTART_WINDOW_S)
        self._supervisor: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._failed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> EngineState:
        if self._draining and self._state is not EngineState.FAILED:
            return EngineState.DRAINING
        return self._state

    @property
    def stats(self) -> EngineStats:
        """Latest stats; totals include those of earlier lives of the engine."""
        return with_past(self._stats, self._past)

    @property
    def in_flight(self) -> int:
        """Requests between `generate` and their last output."""
        return len(self._streams)

    @property
    def responsive(self) -> bool:
        """Whether the engine has shown progress lately."""
        return self._host is not None and self._host.heartbeat_age() < self._heartbeat_timeout

    async def start(self) -> None:
        """Begin loading the engine and supervising it; returns at once."""
        self._supervisor = asyncio.create_task(self._supervise())

    async def wait_ready(self) -> EngineReady:
        """Wait for the first time that the engine is ready."""
        await self._ready.wait()
        assert self.info is not None
        return self.info

    async def wait_failed(self) -> EngineFailure:
        """Wait until the engine is beyond restarting; the server has to exit then."""
        await self._failed.wait()
        assert self.failure is not None
        return self.failure

    def admit(self, sequences: int) -> None:
        """Check that so many more sequences may start now; `generate` does it for one.

        A client's request that makes many calls this first, so that it is refused as a whole.

        Raises:
            UnavailableError: loading, draining, restarting, gone, or the queue is full.
        """
        state = self.state
        if state is not EngineState.READY:
            raise UnavailableError(_UNAVAILABLE[state].message(), retry_after=RETRY_AFTER_LOADING_S)
        if len(self._streams) + sequences > self._max_in_flight:
            raise UnavailableError(
                QUEUE_FULL.message(limit=self._max_in_flight), retry_after=RETRY_AFTER_BUSY_S
            )

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Run one request; the last output has a `finish_reason`.

        Close the generator (`contextlib.aclosing`) to abort: leaving it to the garbage collector keeps the engine
        computing until then.

        Raises:
            UnavailableError: not admitted, or the server shut down before the end.
            EngineDeadError: the engine died meanwhile.
        """
        self.admit(1)
        assert self._host is not None
        stream = _Stream(self._clock())
        self._streams[request.request_id] = stream
        self._idle.clear()
        self._host.send(request)
        finished = False
        try:
            while not finished:
                item = await stream.queue.get()
                finished = isinstance(item, Exception) or item.finish_reason is not None
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._forget(request.request_id, abort=not finished)

    async def drain(self, grace: float) -> int:
        """Refuse new requests and let those in flight finish.

        Args:
            grace: seconds to wait; whoever still runs then is ended with `UnavailableError`.

        Returns:
            How many had to be ended.
        """
        self._draining = True
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            return self.abort_all()
        return 0

    def abort_all(self) -> int:
        """End every request in flight with `UnavailableError`; returns how many there were."""
        self._draining = True
        ended = list(self._streams)
        self._end_streams(
            lambda: UnavailableError(SHUTTING_DOWN.message(), retry_after=RETRY_AFTER_LOADING_S)
        )
        if self._host is not None and ended:
            self._host.send(Abort(ended))
        return len(ended)

    async def stop(self) -> None:
        """End the engine; may be called twice."""
        self.abort_all()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None

    async def _supervise(self) -> None:
        """Run one host after another until stopped or out of restarts."""
        while True:
            failure = await self._live_once()
            logger.error("engine ended: %s", failure.message)
            self._past = with_past(totals_only(self._stats), self._past)
            self._stats = EngineStats()
            if failure.model_error or not self._budget.take(self._clock()):
                self._give_up(failure)
                return
            self._state = EngineState.RESTARTING
            self.restarts_total += 1

    async def _live_once(self) -> EngineFailed:
        """One life of the engine, from start to end; returns why it ended."""
        host = self._make_host()
        self._host = host
        try:
            await host.start()
            while True:
                message = await host.receive()
                if isinstance(message, EngineFailed):
                    return message
                self._handle(message)
        except EngineDeadError as error:
            return EngineFailed(str(error), model_error=False)
        except Exception as error:  # a host that can't start, or a message that can't be read
            logger.exception("engine host failed")
            return EngineFailed(f"{type(error).__name__}: {error}", model_error=False)
        finally:
            # Streams first: a client must not wait for the engine's clean-up to learn that it died.
            self._state = EngineState.RESTARTING
            self._end_streams(_dead)
            await host.stop()

    def _handle(self, message: EngineReady | StepOutputs) -> None:
        if isinstance(message, EngineReady):
            self._become_ready(message)
            return
        self._stats = message.stats
        if message.stats.step_seconds > 0:
            self._observer.on_step(message.stats.step_seconds)
        for request_id in message.stats.admitted:
            if request_id in self._streams:
                queued = self._clock() - self._streams[request_id].started - message.stats.step_seconds
                self._observer.on_admitted(max(queued, 0.0))
        for output in message.outputs:
            if output.request_id in self._streams:
                self._streams[output.request_id].queue.put_nowait(output)

    def _become_ready(self, info: EngineReady) -> None:
        if info.protocol_version != PROTOCOL_VERSION:
            raise EngineDeadError(
                f"The engine speaks protocol {info.protocol_version}, this server {PROTOCOL_VERSION}; "
                "reinstall loopserve."
            )
        self.info = info
        self._state = EngineState.READY
        self._ready.set()

    def _give_up(self, failure: EngineFailed) -> None:
        first_load = self.info is None
        code = EXIT_MODEL_ERROR if failure.model_error and first_load else EXIT_ENGINE_GAVE_UP
        self._state = EngineState.FAILED
        self.failure = EngineFailure(failure.message, code)
        self._failed.set()

    def _end_streams(self, make_error: Callable[[], Exception]) -> None:
        for stream in self._streams.values():
            stream.queue.put_nowait(make_error())

    def _forget(self, request_id: str, *, abort: bool) -> None:
        del self._streams[request_id]
        if not self._streams:
            self._idle.set()
        if abort and self._host is not None:
            self._host.send(Abort([request_id]))


def _dead() -> Exception:
    return EngineDeadError(ENGINE_DEAD.message())


_UNAVAILABLE = {
    EngineState.LOADING: LOADING,
    EngineState.RESTARTING: RESTARTING,
    EngineState.DRAINING: SHUTTING_DOWN,
    EngineState.FAILED: FAILED,
}

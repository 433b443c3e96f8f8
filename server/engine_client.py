"""The API process's only way to the engine: streams of outputs, its state, its restarts.

Everything here runs on the event loop of the API process, so there are no locks.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.errors import EngineDeadError, EngineStartError
from engine.host import EngineHost
from engine.messages import (
    PROTOCOL_VERSION,
    Abort,
    CacheMap,
    Calibrate,
    Calibrated,
    DescribeCache,
    EngineFailed,
    EngineReady,
    EngineStats,
    Request,
    StepOutputs,
)
from server.admission import Admission, AdmissionLimits, Refusal
from server.cache_view import CacheView
from server.calibration import CalibrationState
from server.engine_observer import EngineObserver
from server.engine_streams import EngineStream, StreamGroup
from server.engine_totals import totals_only, with_past
from server.error_catalogue import (
    ENGINE_DEAD,
    FAILED,
    LOADING,
    QUEUE_TIMEOUT,
    REQUEST_TIMEOUT,
    RESTARTING,
    SHUTTING_DOWN,
    ErrorKind,
)
from server.errors import RequestTimeoutError, UnavailableError
from server.restart_budget import RestartBudget
from server.retry_after import LoadEstimator, whole_seconds

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3
RESTART_WINDOW_S = 600.0
EXIT_CANNOT_START = 1
EXIT_MODEL_ERROR = 2
EXIT_ENGINE_GAVE_UP = 70


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


class EngineClient:
    """Owns the engine host, one after another, and gives each request its own stream."""

    def __init__(
        self,
        make_host: Callable[[], EngineHost],
        observer: EngineObserver,
        *,
        limits: AdmissionLimits,
        heartbeat_timeout: float,
        queue_timeout: float = 0,
        request_timeout: float = 0,
        calibration: CalibrationState | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            make_host: makes a host for one life of the engine.
            observer: told about steps and admissions.
            limits: what may be in flight; what exceeds it is refused with `UnavailableError`.
            heartbeat_timeout: seconds without a heartbeat after which the engine is not `responsive`.
            queue_timeout: seconds in which the scheduler must take a request up; 0 for any time.
            request_timeout: seconds in which a request must end; 0 for any time.
            calibration: is told of the engine's calibrations; by default one of its own.
            clock: monotonic seconds.
        """
        self.info: EngineReady | None = None
        self.restarts_total = 0
        self.failure: EngineFailure | None = None
        self._make_host = make_host
        self._observer = observer
        self.admission = Admission(limits, clock)
        self._queue_timeout = queue_timeout
        self._request_timeout = request_timeout
        self._heartbeat_timeout = heartbeat_timeout
        self._clock = clock
        self._state = EngineState.LOADING
        self._draining = False
        self._host: EngineHost | None = None
        self.cache_view = CacheView(self._tell, clock)
        self._streams: dict[str, EngineStream] = {}
        self._loading = LoadEstimator()
        self.calibration = calibration or CalibrationState()
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
        """Sequences between `submit` and their last output."""
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

    def retry_after(self) -> int:
        """Seconds after which a request that is refused now may succeed; an estimate of 1 to 60."""
        if self.state is EngineState.READY and self.responsive:
            return self.admission.retry_after()
        # Of a server that is going, the one that takes its place has to load.
        return whole_seconds(self._loading.seconds(self._clock()))

    def check_ready(self) -> None:
        """See that there is an engine, and that the server is to last.

        Raises:
            UnavailableError: loading, draining, restarting or gone.
        """
        state = self.state
        if state is not EngineState.READY:
            kind, reason = _UNAVAILABLE[state]
            raise UnavailableError(kind.message(), retry_after=self.retry_after(), reason=reason)

    def admit(self, sequences: int = 1, tokens: int = 0) -> None:
        """Check that a client's request may come in now; `submit` does the same with the request at hand.

        A check before reading and tokenising keeps refusals cheap, but only `submit` decides.

        Raises:
            InvalidRequestError: so many sequences would be refused for ever.
            UnavailableError: loading, draining, restarting, gone, or the queue is full.
        """
        try:
            self.check_ready()
            self.admission.check(sequences, tokens)
        except UnavailableError as error:
            self._observer.on_refused(error.reason or "")
            raise

    def calibrate(self) -> None:
        """Have the engine compare the executions again while it serves.

        Raises:
            UnavailableError: there is no engine that could, or no request would be admitted either.
            ConflictError: there is nothing to compare, one is running, or one ended a moment ago.
        """
        self.admit()
        assert self._host is not None
        assert self.info is not None
        self.calibration.begin(self.info.num_loops, self._clock())
        self._host.send(Calibrate())

    def submit(
        self, requests: Sequence[Request], taken_up: asyncio.Future[None] | None = None
    ) -> list[EngineStream]:
        """Give the engine all sequences of one client's request, or none.

        The caller must close every stream, whatever happens; closing one that has not ended aborts it.

        Args:
            taken_up: gets its result once the queue deadline can't end the request any more: when the scheduler has
                taken up the first of its sequences.

        Raises:
            InvalidRequestError, UnavailableError: not admitted, see `admit`.
        """
        self.admit(len(requests), sum(len(request.prompt_token_ids) for request in requests))
        assert self._host is not None
        group, now = StreamGroup(taken_up), self._clock()
        group.streams = [EngineStream(request, group, now, self._forget) for request in requests]
        streams = list(group.streams)
        self._idle.clear()
        for stream in streams:
            self._streams[stream.request_id] = stream
            self.admission.enter(stream.prompt_tokens)
        try:
            for request in requests:
                self._host.send(request)
        except BaseException:  # the caller has nothing to close yet
            for stream in streams:
                stream.close()
            raise
        group.set_deadlines(
            self._queue_timeout,
            self._request_timeout,
            lambda: self._end_late(group),
            lambda: self._end_overlong(group),
        )
        return streams

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
        retry_after = self.retry_after()
        self._end_streams(lambda: UnavailableError(SHUTTING_DOWN.message(), retry_after=retry_after))
        if ended:
            self._tell(Abort(ended))
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
            try:
                failure = await self._live_once()
            except EngineStartError as error:
                failure = EngineFailed(str(error), model_error=False)
                if self.info is None:  # the machine won't be another one in a moment
                    self._give_up(failure, EXIT_CANNOT_START)
                    return
            logger.error("engine ended: %s", failure.message)
            self._past = with_past(totals_only(self._stats), self._past)
            self._stats = EngineStats()
            if failure.model_error or not self._budget.take(self._clock()):
                first_model = failure.model_error and self.info is None
                self._give_up(failure, EXIT_MODEL_ERROR if first_model else EXIT_ENGINE_GAVE_UP)
                return
            self._state = EngineState.RESTARTING
            self.restarts_total += 1

    async def _live_once(self) -> EngineFailed:
        """One life of the engine, from start to end; returns why it ended.

        Raises:
            EngineStartError: it could not even begin.
        """
        host = self._make_host()
        self._host = host
        self._loading.begin(self._clock())
        try:
            await host.start()
            while True:
                message = await host.receive()
                if isinstance(message, EngineFailed):
                    return message
                self._handle(message)
        except EngineDeadError as error:
            return EngineFailed(str(error), model_error=False)
        except EngineStartError:
            raise
        except Exception as error:  # a host that can't start, or a message that can't be read
            logger.exception("engine host failed")
            return EngineFailed(f"{type(error).__name__}: {error}", model_error=False)
        finally:
            # Streams first: a client must not wait for the engine's clean-up to learn that it died.
            self._state = EngineState.RESTARTING
            self.calibration.abandon()
            self._end_streams(_dead)
            self.cache_view.lose()
            await host.stop()

    def _handle(self, message: EngineReady | StepOutputs | Calibrated | CacheMap) -> None:
        if isinstance(message, EngineReady):
            self._become_ready(message)
            return
        if isinstance(message, Calibrated):
            self.calibration.end(message, self._clock())
            return
        if isinstance(message, CacheMap):
            self.cache_view.put(message)
            return
        self._stats = message.stats
        if message.stats.step_seconds > 0:
            self._observer.on_step(message.stats.step_seconds, message.stats.step)
        for request_id in message.stats.admitted:
            if request_id in self._streams:
                stream = self._streams[request_id]
                stream.begun = max(self._clock() - message.stats.step_seconds, stream.started)
                self._observer.on_admitted(stream.begun - stream.started)
                self._take_up(stream)
        for output in message.outputs:
            if output.request_id in self._streams:
                stream = self._streams[output.request_id]
                self._take_up(stream)  # one that the engine refuses never is in `admitted`
                stream.put(output)

    def _tell(self, message: Abort | DescribeCache) -> None:
        if self._host is not None:
            self._host.send(message)

    def _become_ready(self, info: EngineReady) -> None:
        if info.protocol_version != PROTOCOL_VERSION:
            raise EngineDeadError(
                f"The engine speaks protocol {info.protocol_version}, this server {PROTOCOL_VERSION}; "
                "reinstall loopserve."
            )
        self.info = info
        self._loading.end(self._clock())
        self._state = EngineState.READY
        self._ready.set()

    def _give_up(self, failure: EngineFailed, code: int) -> None:
        self._state = EngineState.FAILED
        self.failure = EngineFailure(failure.message, code)
        self._failed.set()

    def _take_up(self, stream: EngineStream) -> None:
        if stream.waiting:
            stream.waiting = False
            self.admission.take_up(stream.prompt_tokens)
            stream.group.take_up()

    def _end_late(self, group: StreamGroup) -> None:
        """The queue deadline of a client's request has passed."""
        message = QUEUE_TIMEOUT.message(seconds=f"{self._queue_timeout:g}")
        retry_after, code = self.retry_after(), QUEUE_TIMEOUT.code or ""
        self._observer.on_refused(Refusal.QUEUE_TIMEOUT)
        self._end_group(group, lambda: UnavailableError(message, retry_after=retry_after, code=code))

    def _end_overlong(self, group: StreamGroup) -> None:
        message = REQUEST_TIMEOUT.message(seconds=f"{self._request_timeout:g}")
        self._end_group(group, lambda: RequestTimeoutError(message))

    def _end_group(self, group: StreamGroup, make_error: Callable[[], Exception]) -> None:
        self._tell(Abort(group.fail(make_error)))

    def _end_streams(self, make_error: Callable[[], Exception]) -> None:
        for group in {stream.group for stream in self._streams.values()}:
            group.fail(make_error)

    def _forget(self, stream: EngineStream) -> None:
        del self._streams[stream.request_id]
        stream.group.remove(stream)
        self.admission.leave(stream.prompt_tokens, waiting=stream.waiting)
        if not self._streams:
            self._idle.set()
        if not stream.finished:
            self._tell(Abort([stream.request_id]))


def _dead() -> Exception:
    return EngineDeadError(ENGINE_DEAD.message())


_UNAVAILABLE: dict[EngineState, tuple[ErrorKind, Refusal]] = {
    EngineState.LOADING: (LOADING, Refusal.LOADING),
    EngineState.RESTARTING: (RESTARTING, Refusal.RESTARTING),
    EngineState.DRAINING: (SHUTTING_DOWN, Refusal.DRAINING),
    EngineState.FAILED: (FAILED, Refusal.FAILED),
}

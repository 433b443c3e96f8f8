"""Drives an engine core: messages in, steps, outputs out. The same for every host; knows no transport."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from engine.errors import InvalidRequestError, ModelError, RequestFailedError, is_isolable
from engine.freed_memory import IdleTrim
from engine.messages import (
    Abort,
    CacheMap,
    Calibrate,
    Calibrated,
    DescribeCache,
    EngineFailed,
    EngineReady,
    EngineStats,
    FromEngine,
    Request,
    RequestOutput,
    Shutdown,
    StepOutputs,
    StepShape,
    ToEngine,
)

logger = logging.getLogger(__name__)

IDLE_WAIT_S = 0.1  # also the longest silence of an idle engine's heartbeat
COMPILING_WAIT_S = 0.005  # between two looks at whether a grammar is ready
EXIT_OK = 0
EXIT_MODEL_ERROR = 2
EXIT_CRASHED = 70

Receive = Callable[[float], list[ToEngine]]
Send = Callable[[FromEngine], None]
Beat = Callable[[], None]


class Core(Protocol):
    """The part of `engine.core.EngineCore` that hosts use; naming it here keeps torch out of their imports."""

    @property
    def has_work(self) -> bool: ...

    @property
    def compiling(self) -> bool: ...

    @property
    def calibrating(self) -> bool: ...

    def ready(self) -> EngineReady: ...

    def add(self, request: Request) -> None: ...

    def abort(self, request_id: str) -> None: ...

    def step(self) -> list[RequestOutput]: ...

    def stats(self) -> EngineStats: ...

    def begin_calibration(self) -> None: ...

    def calibrate(self) -> Calibrated | None: ...
    def cache_map(self) -> CacheMap: ...


def run_engine(load: Callable[[], Core], receive: Receive, send: Send, beat: Beat) -> int:
    """Load a core, say so, and drive it until it is told to stop or fails.

    Args:
        load: makes the core.
        receive: returns the messages that have come, after waiting at most so many seconds for the first one.
        send: hands a message to the API process.
        beat: called once per turn, at least every `IDLE_WAIT_S` unless a step takes longer.

    Returns:
        The exit code for the process.
    """
    try:
        core = load()
    except ModelError as error:
        send(EngineFailed(_one_line(str(error)), model_error=True))
        return EXIT_MODEL_ERROR
    except BaseException as error:
        return _crashed("The engine could not start", error, send)
    beat()
    send(core.ready())
    try:
        run_loop(core, receive, send, beat)
    except BaseException as error:
        return _crashed("The engine stopped on an internal error", error, send)
    return EXIT_OK


def run_loop(core: Core, receive: Receive, send: Send, beat: Beat) -> None:
    """Serve messages and step until `Shutdown` comes; whatever `core.step` raises ends the loop."""
    was_working, idle = False, IdleTrim()
    while True:
        outputs: list[RequestOutput] = []
        for message in receive(_patience(core)):
            if isinstance(message, Shutdown):
                return
            if isinstance(message, DescribeCache):
                _describe_cache(core, send)
            else:
                outputs = _apply(core, message, outputs)
        working = core.has_work
        started = time.monotonic()
        if working:
            outputs += core.step()
        seconds = time.monotonic() - started if working else 0.0
        # `was_working` reports the change to idle that an abort makes without a step.
        if working or was_working or outputs:
            send(StepOutputs(outputs, _stats(core, seconds)))
        was_working = working
        if core.calibrating and (calibrated := core.calibrate()) is not None:
            send(calibrated)
        idle.turn(working or core.calibrating or bool(outputs))
        beat()


def _patience(core: Core) -> float:
    """Seconds that the next message may be waited for."""
    if core.has_work or core.calibrating:
        return 0.0
    return COMPILING_WAIT_S if core.compiling else IDLE_WAIT_S


def _stats(core: Core, step_seconds: float) -> EngineStats:
    """The core's stats; without a step, what its last step did was reported before and must not count twice."""
    stats = msgspec.structs.replace(core.stats(), step_seconds=step_seconds)
    return stats if step_seconds else msgspec.structs.replace(stats, admitted=[], step=StepShape())


def _apply(
    core: Core, message: Request | Abort | Calibrate, outputs: list[RequestOutput]
) -> list[RequestOutput]:
    """Add, abort or begin to calibrate. A request that can't be added gets its error as an output and hurts nobody.

    Args:
        outputs: what is to be sent so far.

    Returns:
        What is to be sent then: an aborted request gets nothing more, not even an error.
    """
    if isinstance(message, Calibrate):
        core.begin_calibration()
        return outputs
    if isinstance(message, Abort):
        for request_id in message.request_ids:
            core.abort(request_id)
        return [output for output in outputs if output.request_id not in message.request_ids]
    try:
        core.add(message)
    except InvalidRequestError as error:
        return [*outputs, _refusal(message, str(error), invalid=True)]
    except RequestFailedError as error:
        return [*outputs, _refusal(message, str(error), invalid=False)]
    return outputs


def _describe_cache(core: Core, send: Send) -> None:
    """Answer; a failure is not worth the engine, and whoever asked hears nothing."""
    try:
        send(core.cache_map())
    except Exception:
        logger.exception("the cache could not be described")


def _refusal(request: Request, text: str, *, invalid: bool) -> RequestOutput:
    return RequestOutput(request_id=request.request_id, finish_reason="error", error=text, invalid=invalid)


def _crashed(what: str, error: BaseException, send: Send) -> int:
    """Report the end, a panic's as an exception's; whatever wants this process or thread to end goes its way."""
    if not is_isolable(error):
        raise error
    logger.exception(what)
    send(EngineFailed(_one_line(f"{what}: {type(error).__name__}: {error}"), model_error=False))
    return EXIT_CRASHED


def _one_line(text: str) -> str:
    return " ".join(text.split())

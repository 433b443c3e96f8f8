"""Times one sequence from arrival to end."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal, Self, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from engine.errors import is_isolable
from server.error_catalogue import QUEUE_TIMEOUT
from server.errors import RequestTimeoutError, UnavailableError
from server.metric_buckets import Bounds

FinishedReason = Literal["stop", "length", "abort", "error"]
CancelReason = Literal["disconnect", "timeout", "drain"]

Clock = Callable[[], float]


class RequestSeries:
    """What is counted and timed per sequence."""

    def __init__(self, registry: CollectorRegistry, bounds: Mapping[str, Bounds]) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"loopserve_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"loopserve_{name}", text, buckets=bounds[name], registry=registry)

        # The outcome label keeps vLLM's family name although "abort" and "error" are no successes.
        self.success = counter("request_success", "Ended sequences by outcome.", ("finished_reason",))
        for finished in get_args(FinishedReason):
            self.success.labels(finished)
        self.cancelled = counter(
            "requests_cancelled", "Sequences ended before their time, by what ended them.", ("reason",)
        )
        for cancelled in get_args(CancelReason):
            self.cancelled.labels(cancelled)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens received.")
        self.prompt_tokens_cached = counter(
            "prompt_tokens_cached", "Prompt tokens of answered sequences that came from the prefix cache."
        )
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.time_to_first_token = histogram("time_to_first_token_seconds", "Arrival to first token.")
        self.inter_token_latency = histogram("inter_token_latency_seconds", "Time between tokens.")
        self.time_per_output_token = histogram(
            "request_time_per_output_token_seconds", "Mean time between tokens of a completed sequence."
        )
        self.decode_time = histogram(
            "request_decode_time_seconds", "First token to last token, completed sequences."
        )
        self.e2e_latency = histogram("e2e_request_latency_seconds", "Arrival to end, completed sequences.")
        self.num_prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens per sequence.")
        self.num_generation_tokens = histogram("request_generation_tokens", "Generated tokens per sequence.")


class RequestMetrics:
    """One per sequence that the engine is given.

    Use as a context manager around the stream. A block left without `on_finish` counts as "abort" (client gone,
    cancelled) or, when an exception leaves it, as "error"; so no path can forget to count.
    """

    def __init__(
        self, series: RequestSeries, clock: Clock, on_end: Callable[[FinishedReason], None] | None = None
    ) -> None:
        """`on_end` is told once how the sequence ended."""
        self._series = series
        self._clock = clock
        self._on_end = on_end
        self._started = clock()
        self._first_token: float | None = None
        self._last_token = 0.0
        self._generated = 0
        self._finished = False

    def on_start(self, prompt_tokens: int) -> None:
        """The prompt has been tokenised and goes to the engine."""
        self._series.prompt_tokens.inc(prompt_tokens)
        self._series.num_prompt_tokens.observe(prompt_tokens)

    def on_token(self, count: int, cached_tokens: int = 0) -> None:
        """New tokens came out of the engine together; call with 0 is a no-op.

        Args:
            cached_tokens: prompt tokens that came from the prefix cache, the same each time.
        """
        if count == 0:
            return
        now = self._clock()
        if self._first_token is None:
            self._first_token = now
            self._series.time_to_first_token.observe(now - self._started)
            self._series.prompt_tokens_cached.inc(cached_tokens)
        else:
            self._series.inter_token_latency.observe((now - self._last_token) / count)
        self._last_token = now
        self._generated += count
        self._series.generation_tokens.inc(count)

    def on_finish(self, reason: FinishedReason) -> None:
        """The sequence has ended; only the first call counts."""
        if self._finished:
            return
        self._finished = True
        series = self._series
        series.success.labels(reason).inc()
        if self._on_end is not None:
            self._on_end(reason)
        series.num_generation_tokens.observe(self._generated)
        if reason not in ("stop", "length"):
            return
        series.e2e_latency.observe(self._clock() - self._started)
        if self._first_token is not None:
            decoding = self._last_token - self._first_token
            series.decode_time.observe(decoding)
            if self._generated > 1:
                series.time_per_output_token.observe(decoding / (self._generated - 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cancelled = None if self._finished else _cancelled_by(error)
        if cancelled is not None:
            self._series.cancelled.labels(cancelled).inc()
        # A library's panic is an error, too; CancelledError and GeneratorExit are an abort.
        self.on_finish("error" if error is not None and is_isolable(error) else "abort")


def _cancelled_by(error: BaseException | None) -> CancelReason | None:
    """Who ended a sequence before its time; None if something broke, or the queue was too long."""
    match error:
        case RequestTimeoutError():
            return "timeout"
        case UnavailableError():
            return None if error.code == QUEUE_TIMEOUT.code else "drain"
        case BaseException() if is_isolable(error):
            return None
        case _:
            return "disconnect"

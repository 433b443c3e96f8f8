"""What this process measures itself: requests, tokens and latencies, in Prometheus' terms.

Names follow vLLM's suffixes and units, so that a dashboard moves over by replacing the prefix. Totals and states of
the engine are in `server.engine_metrics`; HTTP series in `server.http_metrics`. Everything is on a registry of its
own: the library's global one would mix up two servers in one test process.
"""

import platform
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from prometheus_client import CollectorRegistry, Counter, Histogram, Info

from server.admission import Refusal

FinishedReason = Literal["stop", "length", "abort", "error"]

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
INTER_TOKEN_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08),
    *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0),
)
E2E_BUCKETS = (
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
QUEUE_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0),
    *(300.0, 600.0, 1200.0, 3000.0),
)
TOKEN_BUCKETS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))

Clock = Callable[[], float]


class RequestMetrics:
    """Times one sequence from arrival to end; one per `EngineClient.generate` call.

    Use as a context manager around the stream. A block left without `on_finish` counts as "abort" (client gone,
    cancelled) or, when an exception leaves it, as "error"; so no path can forget to count.
    """

    def __init__(self, metrics: "ServerMetrics", clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._started = clock()
        self._last_token: float | None = None
        self._generated = 0
        self._finished = False

    def on_start(self, prompt_tokens: int) -> None:
        """The prompt has been tokenised and goes to the engine."""
        self._metrics.prompt_tokens.inc(prompt_tokens)
        self._metrics.request_prompt_tokens.observe(prompt_tokens)

    def on_token(self, count: int = 1) -> None:
        """New tokens came out of the engine together; call with 0 is a no-op."""
        if count == 0:
            return
        now = self._clock()
        if self._last_token is None:
            self._metrics.time_to_first_token.observe(now - self._started)
        else:
            self._metrics.inter_token_latency.observe((now - self._last_token) / count)
        self._last_token = now
        self._generated += count
        self._metrics.generation_tokens.inc(count)

    def on_finish(self, reason: FinishedReason) -> None:
        """The sequence has ended; only the first call counts."""
        if self._finished:
            return
        self._finished = True
        self._metrics.request_success.labels(reason).inc()
        self._metrics.request_generation_tokens.observe(self._generated)
        if reason in ("stop", "length"):
            self._metrics.e2e_latency.observe(self._clock() - self._started)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = isinstance(error, Exception)  # CancelledError and GeneratorExit are no Exception: an abort
        self.on_finish("error" if failed else "abort")


class ServerMetrics:
    """The registry and every series that the API process observes by itself."""

    def __init__(self, version: str, clock: Clock = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        registry = self.registry
        # The outcome label keeps vLLM's family name although "abort" and "error" are no successes.
        self.request_success = Counter(
            "loopserve_request_success", "Ended sequences by outcome.", ["finished_reason"], registry=registry
        )
        for reason in ("stop", "length", "abort", "error"):
            self.request_success.labels(reason)
        self.requests_refused = Counter(
            "loopserve_requests_refused",
            "Requests answered with 503, by reason.",
            ["reason"],
            registry=registry,
        )
        for refusal in Refusal:
            self.requests_refused.labels(refusal.value)
        self.prompt_tokens = Counter("loopserve_prompt_tokens", "Prompt tokens received.", registry=registry)
        self.generation_tokens = Counter(
            "loopserve_generation_tokens", "Tokens generated.", registry=registry
        )
        self.time_to_first_token = _histogram(
            "time_to_first_token_seconds", "Arrival to first token.", TTFT_BUCKETS, registry
        )
        self.inter_token_latency = _histogram(
            "inter_token_latency_seconds", "Time between tokens.", INTER_TOKEN_BUCKETS, registry
        )
        self.e2e_latency = _histogram(
            "e2e_request_latency_seconds", "Arrival to end, completed sequences.", E2E_BUCKETS, registry
        )
        self.queue_time = _histogram(
            "request_queue_time_seconds",
            "Arrival to first admission by the scheduler.",
            QUEUE_BUCKETS,
            registry,
        )
        self.request_prompt_tokens = _histogram(
            "request_prompt_tokens", "Prompt tokens per sequence.", TOKEN_BUCKETS, registry
        )
        self.request_generation_tokens = _histogram(
            "request_generation_tokens", "Generated tokens per sequence.", TOKEN_BUCKETS, registry
        )
        self.step_seconds = _histogram(
            "step_seconds", "Wall time of one engine step.", INTER_TOKEN_BUCKETS, registry
        )
        build = Info("loopserve_build", "What is running.", registry=registry)
        build.info({"version": version, "python": platform.python_version()})

    def on_step(self, seconds: float) -> None:
        """One engine step took so long."""
        self.step_seconds.observe(seconds)

    def on_admitted(self, queued_seconds: float) -> None:
        """The scheduler took a request up for the first time."""
        self.queue_time.observe(queued_seconds)

    def on_refused(self, reason: str) -> None:
        """A client's request was answered with 503."""
        self.requests_refused.labels(reason).inc()

    def request(self) -> RequestMetrics:
        """Start timing one sequence; call it when the request arrives."""
        return RequestMetrics(self, self._clock)


def _histogram(name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> Histogram:
    return Histogram(f"loopserve_{name}", text, buckets=buckets, registry=registry)

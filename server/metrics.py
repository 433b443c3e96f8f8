"""The registry, and what this process measures itself, in Prometheus' terms.

Names follow vLLM's suffixes and units, so that a dashboard moves over by replacing the prefix. What is measured per
sequence is in `server.request_metrics`, totals and states of the engine in `server.engine_metrics`, HTTP in
`server.http_metrics`. Everything is on a registry of its own: the library's global one would mix up two servers in one
test process. `docs/metrics.md` lists all of it.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, Info

from engine.messages import StepShape
from server.admission import Refusal
from server.metric_buckets import bounds_with
from server.request_metrics import FinishedReason, RequestMetrics, RequestSeries
from server.strict_http import ConnectionEnd

PHASES = ("prefill", "decode", "mixed")


class ServerMetrics:
    """The registry and every series that the API process observes by itself.

    Attributes:
        bounds: of all histograms, by family name without prefix.
    """

    def __init__(
        self,
        version: str,
        clock: Callable[[], float] = time.monotonic,
        buckets: Mapping[str, Sequence[float]] = {},
    ) -> None:
        """Make the registry.

        Args:
            buckets: bounds of some histograms instead of the usual ones.

        Raises:
            SettingsError: they can't be.
        """
        self.registry = CollectorRegistry()
        self.bounds = bounds_with(buckets)
        self._clock = clock
        self._requests = RequestSeries(self.registry, self.bounds)
        self._refused = self._counter("requests_refused", "Requests answered with 503, by reason.", "reason")
        for refusal in Refusal:
            self._refused.labels(refusal.value)
        self._connections = self._counter(
            "connections_refused", "Connections ended below the application, by reason.", "reason"
        )
        for end in ConnectionEnd:
            self._connections.labels(end.value)
        self._queue_time = self._histogram(
            "request_queue_time_seconds", "Arrival to first admission by the scheduler."
        )
        self._step_seconds = self._histogram(
            "step_seconds", "Wall time of one engine step, by what it worked on.", "phase"
        )
        self._step_rows = self._histogram("step_rows", "Rows of one loop in one step that had any.", "loop")
        self._seconds_of = {phase: self._step_seconds.labels(phase) for phase in PHASES}
        self._rows_of: list[Histogram] = []
        self._grammar_seconds = self._histogram(
            "grammar_compile_seconds", "Time that a new grammar took to compile, on trial."
        )
        self._loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the API process's event loop was, sampled."
        )
        build = Info("loopserve_build", "What is running.", registry=self.registry)
        build.info({"version": version, "python": platform.python_version()})

    def on_step(self, seconds: float, step: StepShape) -> None:
        """One engine step took so long and computed so much."""
        if step.phase:
            self._seconds_of[step.phase].observe(seconds)
        while len(self._rows_of) < len(step.rows):
            self._rows_of.append(self._step_rows.labels(str(len(self._rows_of))))
        for histogram, rows in zip(self._rows_of, step.rows, strict=False):
            if rows:
                histogram.observe(rows)

    def on_admitted(self, queued_seconds: float) -> None:
        """The scheduler took a request up for the first time."""
        self._queue_time.observe(queued_seconds)

    def on_refused(self, reason: str) -> None:
        """A client's request was answered with 503."""
        self._refused.labels(reason).inc()

    def on_connection_ended(self, end: ConnectionEnd) -> None:
        """A connection was ended, or a request on it refused, before the application saw it."""
        self._connections.labels(end.value).inc()

    def on_grammar(self, seconds: float) -> None:
        """A grammar was compiled, or given up, on trial."""
        self._grammar_seconds.observe(seconds)

    def on_loop_lag(self, seconds: float) -> None:
        """The event loop came so late to something."""
        self._loop_lag.observe(seconds)

    def request(self, on_end: Callable[[FinishedReason], None] | None = None) -> RequestMetrics:
        """Start timing one sequence; call it when the request arrives. `on_end` is told how it ended."""
        return RequestMetrics(self._requests, self._clock, on_end)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"loopserve_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"loopserve_{name}", text, labels, buckets=self.bounds[name], registry=self.registry)

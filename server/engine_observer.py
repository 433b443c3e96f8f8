"""Who is told about what happens in the engine client, to count it."""

from typing import Protocol

from engine.messages import StepShape


class EngineObserver(Protocol):
    """Told about what happens in the engine; `server.metrics.ServerMetrics` is one."""

    def on_step(self, seconds: float, step: StepShape) -> None:
        """One engine step took so long and computed so much."""

    def on_admitted(self, queued_seconds: float) -> None:
        """The scheduler took a request up for the first time."""

    def on_refused(self, reason: str) -> None:
        """A client's request was answered with 503; `reason` is one of `server.admission.Refusal`."""

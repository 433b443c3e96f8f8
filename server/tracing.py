"""Traces, where they are asked for. What knows of OpenTelemetry is `server.otel`, which is loaded only then."""

import importlib
from typing import Protocol

from server.errors import SettingsError
from server.request_notes import FinishedRequest

EXTRA = "otel"


class Tracer(Protocol):
    """Tells a collector of requests; nothing in here waits for one."""

    def on_request(self, request: FinishedRequest) -> None:
        """A request has ended."""

    async def close(self) -> None:
        """Send what is left, in bounded time."""


def make_tracer(endpoint: str, model_name: str) -> Tracer:
    """A tracer that sends to the collector at `endpoint`.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """
    try:
        module = importlib.import_module("server.otel")
    except ImportError as error:
        raise SettingsError(
            f"--otlp-endpoint needs OpenTelemetry ({error}); pip install 'loopserve[{EXTRA}]'."
        ) from error
    tracer: Tracer = module.OtelTracer(endpoint, model_name)
    return tracer

"""Requests as OpenTelemetry's spans, sent over OTLP/HTTP. Loaded by `server.tracing` where it is asked for.

Spans are made when a request has ended, out of times that were noted on its way: until then tracing costs nothing, and
then about a tenth of a millisecond. A thread of OpenTelemetry's sends them. If the collector doesn't keep up,
the oldest are dropped.
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.http_metrics import OTHER_METHOD, UNMATCHED
from server.request_notes import FinishedRequest, RequestNotes
from server.version import package_version

TRACES_PATH = "/v1/traces"
MAX_QUEUED_SPANS = 2048
MAX_BATCH_SPANS = 512
SEND_EVERY_MS = 5000
SEND_TIMEOUT_S = 10
FLUSH_S = 3.0
"""For what is left at the end; a collector that is gone must not hold up a restart."""

UNTRACED_ROUTES = frozenset({"/health", "/ready", "/metrics"})
"""Asked every few seconds by machines, and never what somebody looks for."""
CHAT_ROUTES = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/messages"})

Attributes = dict[str, str | int | float | Sequence[str]]


class OtelTracer:
    """Satisfies `server.tracing.Tracer`."""

    def __init__(self, endpoint: str, model_name: str) -> None:
        """Begin; the collector need not be there yet.

        Args:
            endpoint: the collector's URL, with or without the path of traces.
            model_name: as clients know it.
        """
        self._model_name = model_name
        about = {"service.name": "loopserve", "service.version": package_version()}
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win. Sampling is OpenTelemetry's, too: OTEL_TRACES_SAMPLER.
        resource = Resource.create(about).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(traces_address(endpoint), timeout=SEND_TIMEOUT_S),
                max_queue_size=MAX_QUEUED_SPANS,
                schedule_delay_millis=SEND_EVERY_MS,
                max_export_batch_size=MAX_BATCH_SPANS,
            )
        )
        self._tracer = self._provider.get_tracer("loopserve", package_version())

    def on_request(self, request: FinishedRequest) -> None:
        """See `Tracer.on_request`."""
        if request.route in UNTRACED_ROUTES:
            return
        clock = _WallClock()
        notes = request.notes
        span = self._tracer.start_span(
            _span_name(request),
            context=_parent(request.headers),
            kind=SpanKind.SERVER,
            attributes=_http_attributes(request) | (self._model_attributes(request) if notes.answer else {}),
            start_time=clock.at(request.started),
        )
        if span.is_recording():
            if request.status >= 500 or "error" in notes.finish_reasons:
                span.set_status(StatusCode.ERROR)
            self._add_phases(span, request, clock)
        span.end(clock.at(request.ended))

    async def close(self) -> None:
        """See `Tracer.close`."""
        # Waits for a send that is under way, longer than may be; so it is left behind if need be.
        closing = threading.Thread(target=self._provider.shutdown, name="otel-shutdown", daemon=True)
        closing.start()
        deadline = time.monotonic() + FLUSH_S
        while closing.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def _model_attributes(self, request: FinishedRequest) -> Attributes:
        """Of the semantic conventions for generative AI, and our own."""
        notes = request.notes
        attributes: Attributes = {
            "gen_ai.operation.name": "chat" if request.route in CHAT_ROUTES else "text_completion",
            "gen_ai.provider.name": "loopserve",
            "gen_ai.request.model": self._model_name,
            "gen_ai.response.model": self._model_name,
            "gen_ai.response.id": notes.answer,
            "gen_ai.response.finish_reasons": notes.finish_reasons,
            "gen_ai.usage.input_tokens": notes.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": sum(notes.cached_tokens.values()),
            "gen_ai.usage.output_tokens": notes.generated_tokens,
            "loopserve.loops": notes.loops,
        }
        if notes.first_token is not None:
            attributes["gen_ai.server.time_to_first_token"] = notes.first_token - request.started
        return attributes

    def _add_phases(self, span: Span, request: FinishedRequest, clock: "_WallClock") -> None:
        context = set_span_in_context(span, Context())
        for name, start, end in phases(request.notes, request.ended):
            phase = self._tracer.start_span(name, context=context, start_time=clock.at(start))
            phase.end(clock.at(end))


def phases(notes: RequestNotes, ended: float) -> Iterable[tuple[str, float, float]]:
    """Name, start and end of what a request went through, one after another; the last may have been cut short."""
    begun = [
        (name, start)
        for name, start in (
            ("queue", notes.submitted),
            ("prefill", notes.begun),
            ("decode", notes.first_token),
        )
        if start is not None
    ]
    last = ended if notes.last_token is None else notes.last_token
    ends = [start for _, start in begun[1:]] + [last]
    return [(name, start, end) for (name, start), end in zip(begun, ends, strict=False)]


def traces_address(endpoint: str) -> str:
    """Where spans are posted to, for a collector's URL that may already say it."""
    base = endpoint.rstrip("/")
    return base if base.endswith(TRACES_PATH) else base + TRACES_PATH


class _WallClock:
    """Turns monotonic seconds into nanoseconds since 1970."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def at(self, monotonic: float) -> int:
        return self._offset + int(monotonic * 1e9)


def _span_name(request: FinishedRequest) -> str:
    method = "HTTP" if request.method == OTHER_METHOD else request.method
    return method if request.route == UNMATCHED else f"{method} {request.route}"


def _http_attributes(request: FinishedRequest) -> Attributes:
    attributes: Attributes = {
        "http.request.method": "_OTHER" if request.method == OTHER_METHOD else request.method,
        "http.response.status_code": request.status,
        "loopserve.request_id": request.request_id,
    }
    if request.route != UNMATCHED:
        attributes["http.route"] = request.route
    if request.status >= 500:
        attributes["error.type"] = str(request.status)
    return attributes


def _parent(headers: Iterable[tuple[bytes, bytes]]) -> Context:
    """The client's span, by W3C's `traceparent`; two of them are none."""
    given: dict[bytes, list[str]] = {b"traceparent": [], b"tracestate": []}
    for name, value in headers:
        if name in given:
            given[name].append(value.decode("latin-1"))
    if len(given[b"traceparent"]) != 1:
        return Context()
    carrier = {"traceparent": given[b"traceparent"][0], "tracestate": ",".join(given[b"tracestate"])}
    return TraceContextTextMapPropagator().extract(carrier, Context())

"""Counts and times HTTP requests by method, route and status."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metric_buckets import Bounds

OTHER_METHOD = "other"
UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})


def method_of(scope: Scope) -> str:
    """The method of a request, or `OTHER_METHOD` if it is none of the usual ones."""
    return scope["method"] if scope["method"] in _METHODS else OTHER_METHOD


def route_of(scope: Scope) -> str:
    """The template of the route that a request took, once the application has handled it, or `UNMATCHED`."""
    return str(getattr(scope.get("route"), "path", UNMATCHED))


class HttpSeries:
    """The HTTP series on one registry."""

    def __init__(self, registry: CollectorRegistry, bounds: Mapping[str, Bounds]) -> None:
        self.requests = Counter(
            "loopserve_http_requests",
            "HTTP responses by route and status.",
            ["method", "path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "loopserve_http_request_duration_seconds",
            "Request to end of response, streams included.",
            ["method", "path"],
            buckets=bounds["http_request_duration_seconds"],
            registry=registry,
        )
        self.active = Gauge(
            "loopserve_http_requests_active", "HTTP requests being handled.", registry=registry
        )


class HttpMetricsMiddleware:
    """Observes every request; the path label is the route's template, so clients can't invent series."""

    def __init__(self, app: ASGIApp, series: HttpSeries) -> None:
        self._app = app
        self._series = series

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what an exception on its way through here becomes

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            with self._series.active.track_inprogress():
                await self._app(scope, receive, watch)
        finally:
            method, path = method_of(scope), route_of(scope)
            self._series.requests.labels(method, path, str(status)).inc()
            self._series.seconds.labels(method, path).observe(time.perf_counter() - started)

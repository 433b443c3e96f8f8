"""Bounds request bodies, in size, time and memory, before anything parses them.

The body is collected here, up to the limit, and replayed as one message: whoever reads it below gets all or nothing,
and no framework's own body handling can turn the refusal into something else.
"""

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.error_catalogue import BODIES_TOO_LARGE, REQUEST_TOO_LARGE, SLOW_REQUEST
from server.openai.errors import CLIENT_CLOSED_REQUEST, ApiError, error_response

UNCOUNTED_BYTES = 16 << 10
"""Of each body: while large bodies fill the memory that bodies may have, ordinary requests still get through."""

RETRY_AFTER_S = 1


class BodyMemory:
    """The bytes of all bodies that are held at once."""

    def __init__(self, limit: int) -> None:
        """Allow `limit` bytes together."""
        self.held = 0
        self._limit = limit

    def take(self, size: int) -> bool:
        """Count so many more bytes, if they are allowed."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Count so many fewer."""
        self.held -= size


class BodyLimitMiddleware:
    """Answers 413 to a body above the limit: at once if it is announced, else as soon as it is exceeded.

    A body that takes too long gets 408, and one for which there is no memory 503.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float, memory: BodyMemory) -> None:
        """Allow `limit` bytes within so many seconds, from `memory`."""
        self._app = app
        self._limit = limit
        self._seconds = seconds
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Counted until the request is over: the framework keeps the bytes as long.
        body = _Body(self._limit, self._memory)
        try:
            problem = await self._problem(scope, receive, body)
            if problem is None:
                await self._app(scope, _replay(bytes(body.collected), receive), send)
            else:
                await problem(scope, receive, send)
        finally:
            body.release()

    async def _problem(self, scope: Scope, receive: Receive, body: "_Body") -> Response | None:
        """Collect the body; returns the answer if that fails."""
        if self._announces_too_much(scope):
            return _closing(ApiError.of(REQUEST_TOO_LARGE, limit=self._limit))
        try:
            async with asyncio.timeout(self._seconds):
                return await body.collect(receive)
        except TimeoutError:
            return _closing(ApiError.of(SLOW_REQUEST))

    def _announces_too_much(self, scope: Scope) -> bool:
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        return any(value.isdigit() and int(value[:20]) > self._limit for value in lengths)


class _Body:
    """The body of one request, as far as it has come."""

    def __init__(self, limit: int, memory: BodyMemory) -> None:
        self.collected = bytearray()
        self._limit = limit
        self._memory = memory
        self._counted = 0

    async def collect(self, receive: Receive) -> Response | None:
        """Read to the end; returns the answer to a body that there is no room for, or whose client left."""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return Response(status_code=CLIENT_CLOSED_REQUEST)  # for metrics; it reaches nobody
            part = message.get("body", b"")
            if len(self.collected) + len(part) > self._limit:
                return _closing(ApiError.of(REQUEST_TOO_LARGE, limit=self._limit))
            if not self._count(len(self.collected) + len(part)):
                return _closing(ApiError.of(BODIES_TOO_LARGE, headers={"Retry-After": str(RETRY_AFTER_S)}))
            self.collected += part
            if not message.get("more_body", False):
                return None

    def _count(self, size: int) -> bool:
        more = max(0, size - UNCOUNTED_BYTES) - self._counted
        if more > 0 and not self._memory.take(more):
            return False
        self._counted += max(0, more)
        return True

    def release(self) -> None:
        """Give the memory back."""
        self._memory.give_back(self._counted)
        self._counted = 0


def _closing(error: ApiError) -> Response:
    """An error that ends the connection, which stops the client from sending what nobody would read."""
    error.headers["Connection"] = "close"
    return error_response(error)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the collected body first and then whatever follows (the disconnect)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay

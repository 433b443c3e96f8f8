"""Bounds request bodies before anything parses them.

The body is collected here, up to the limit, and replayed as one message: whoever reads it below gets all or nothing,
and no framework's own body handling can turn the refusal into something else.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.error_catalogue import REQUEST_TOO_LARGE
from server.openai.errors import ApiError, error_response


class BodyLimitMiddleware:
    """Answers 413 to a body above the limit: at once if it is announced, else as soon as it is exceeded."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Allow `limit` bytes."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = None if self._announces_too_much(scope) else await self._collect(receive)
        if body is None:
            # Closing stops the client from sending the rest, which nobody would read.
            error = ApiError.of(REQUEST_TOO_LARGE, headers={"Connection": "close"}, limit=self._limit)
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _announces_too_much(self, scope: Scope) -> bool:
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        return any(value.isdigit() and int(value[:20]) > self._limit for value in lengths)

    async def _collect(self, receive: Receive) -> bytes | None:
        """The whole body, or None if it is too long; of a client that left, what there was."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts)
            part = message.get("body", b"")
            size += len(part)
            if size > self._limit:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the collected body first and then whatever follows (the disconnect)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay

"""An id on every response, to find its request in the logs. The client's own is echoed when harmless.

It is a label only: the engine's request ids are made by the server, so two clients can't collide.
"""

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.log_format import current_request_id

HEADER = b"x-request-id"
_HARMLESS = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestIdMiddleware:
    """Puts `request_id` into the request's state and the `x-request-id` header on its response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _client_id(scope) or uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        current_request_id.set(request_id.decode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


def _client_id(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == HEADER and _HARMLESS.fullmatch(value):
            return bytes(value)
    return None

"""Drives an ASGI application by hand, for middleware whose details an HTTP client would hide."""

import json
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]


@dataclass
class Reply:
    """What an application sent, and how much of the body it read."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks_read: int = 0

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


async def call(
    app: ASGIApp, path: str = "/", headers: Headers | None = None, chunks: list[bytes] | None = None
) -> Reply:
    """One request; `chunks` are the pieces of its body."""
    reply = Reply()
    pending = list(chunks or [b""])
    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers or []}

    async def receive() -> Message:
        if not pending:
            return {"type": "http.disconnect"}
        reply.chunks_read += 1
        return {"type": "http.request", "body": pending.pop(0), "more_body": bool(pending)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            reply.body += message.get("body", b"")

    await app(scope, receive, send)
    return reply


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 200 with the body it got."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await PlainTextResponse(body)(scope, receive, send)

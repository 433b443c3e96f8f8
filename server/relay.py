"""An HTTP request as one value, and its answer as a stream of ASGI messages: an application called from elsewhere.

For whoever carries requests by other means than a socket, such as the handles of Ray Serve.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

END_GRACE_S = 5.0
"""Time for the application to notice that its client has left; then it is cancelled."""


@dataclass(frozen=True, slots=True)
class RelayedRequest:
    """What the application needs to know of a request. Bytes and strings only, so that it can be pickled."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    client: tuple[str, int] | None

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> "RelayedRequest":
        """From the scope of the request as it came."""
        client = scope.get("client")
        return cls(
            method=scope["method"],
            path=scope["path"],
            raw_path=scope.get("raw_path") or scope["path"].encode(),
            query=scope["query_string"],
            headers=[(bytes(name), bytes(value)) for name, value in scope["headers"]],
            body=body,
            client=(client[0], client[1]) if client else None,
        )

    def scope(self) -> Scope:
        """ASGI's."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": None,
        }


async def relay(app: ASGIApp, request: RelayedRequest) -> AsyncGenerator[Message, None]:
    """Call the application and pass on its messages as they come.

    Closing or cancelling the generator is the client's leaving: the application gets `http.disconnect`.

    Raises:
        Exception: the application's own.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    left = asyncio.Event()
    bodies: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> Message:
        if bodies:
            return bodies.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(request.scope(), receive, messages.put)
        finally:
            messages.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (message := await messages.get()) is not None:
            yield message
        await running
    finally:
        left.set()
        await asyncio.wait({running}, timeout=END_GRACE_S)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

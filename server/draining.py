"""Tells clients of a server that shuts down to use another connection for their next request."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.engine_client import EngineClient, EngineState


class CloseWhileDrainingMiddleware:
    """Puts `Connection: close` on every answer that begins while the server drains.

    Without it a client, or a load balancer that pools connections, would send its next request to the same process.
    """

    def __init__(self, app: ASGIApp, client: EngineClient) -> None:
        self._app = app
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._client.state is EngineState.DRAINING:
                message["headers"] = [
                    *(
                        (name, value)
                        for name, value in message.get("headers", [])
                        if name.lower() != b"connection"
                    ),
                    (b"connection", b"close"),
                ]
            await send(message)

        await self._app(scope, receive, closing if scope["type"] == "http" else send)

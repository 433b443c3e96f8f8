"""`x-ratelimit-*` on every response, so that a client can slow down before it is refused."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.key_limits import KeyLimits


class RateLimitHeadersMiddleware:
    """Adds what is left to the request's account when its response begins."""

    def __init__(self, app: ASGIApp, limits: KeyLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        account = scope.get("state", {}).get("account", "")

        async def send_with_rest(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._limits.headers(account)]
            await send(message)

        await self._app(scope, receive, send_with_rest)

"""Refuses requests before their body is read, while no request at all would be admitted.

Reading, parsing and validating a body costs up to a hundred times as much as this answer. Under ten times the load that
a server can take, nine of ten requests are refused, and what they cost is taken from the admitted ones.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from server.engine_client import EngineClient, EngineState
from server.errors import UnavailableError
from server.openai.errors import error_response, to_api_error

GENERATING_PATHS = frozenset(
    {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/fim/completions",
        "/infill",
    }
)


class EarlyRefusalMiddleware:
    """Answers 503 in place of the generating routes; who gets past it may still be refused when it is known whole."""

    def __init__(self, app: ASGIApp, client: EngineClient) -> None:
        """Stands below authentication, so that only known clients learn of the server's state."""
        self._app = app
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING_PATHS:
            # A server that goes closes its connections with the answer. A client that still writes its body then may
            # see a reset instead of the 503, so there the body is read first.
            going = self._client.state in (EngineState.DRAINING, EngineState.FAILED)
            try:
                if not going:
                    self._client.admit()
            except UnavailableError as error:
                await error_response(to_api_error(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

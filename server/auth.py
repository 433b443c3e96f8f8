"""API keys: deny by default, over the raw path.

Everything needs a key once one is configured, also paths that don't exist and `/metrics` (Prometheus can send a
bearer token), except what a load balancer's probe must reach, and reading the files of the page (`server.static_page`).
The path is compared as the server got it: no normalising, so no disagreement with the router to exploit.
"""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from server.api_keys import ApiKeys
from server.error_catalogue import INVALID_API_KEY
from server.openai.errors import ApiError, error_response

OPEN_PATHS = frozenset({"/health", "/ready"})
READING = frozenset({"GET", "HEAD"})
_BEARER = b"bearer "


class AuthMiddleware:
    """Lets a request through if it presents one known key and no other; puts the key's account into its state."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, readable: Iterable[str] = ()) -> None:
        """Guard `app` with these keys; with none, nothing passes but the open paths.

        Args:
            readable: further paths that are open, but only to GET and HEAD.
        """
        self._app = app
        self._keys = keys
        self._readable = frozenset(readable)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError.of(INVALID_API_KEY, headers={"WWW-Authenticate": "Bearer"})
        await error_response(error)(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        if scope["path"] in OPEN_PATHS:
            return True
        if scope["path"] in self._readable and scope["method"] in READING:
            return True
        accounts = {self._keys.account_of(key) for key in _presented_keys(scope["headers"])}
        if (
            len(accounts) != 1 or None in accounts
        ):  # two known keys are refused, too: whose request would it be?
            return False
        scope.setdefault("state", {})["account"] = accounts.pop()
        return True


def _presented_keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """All credentials in the request; one in a wrong scheme counts as a wrong key."""
    for name, value in headers:
        if name == b"authorization":
            yield value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else b""
        elif name == b"x-api-key":
            yield value

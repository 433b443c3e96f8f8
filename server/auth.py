"""API keys: deny by default, over the raw path.

Everything needs a key once one is configured, also paths that don't exist and `/metrics` (Prometheus can send a
bearer token), except what a load balancer's probe must reach. The path is compared as the server got it: no
normalising, so no disagreement with the router to exploit.
"""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from server.error_catalogue import INVALID_API_KEY
from server.openai.errors import ApiError, error_response

OPEN_PATHS = frozenset({"/health", "/ready"})
_BEARER = b"bearer "


class AuthMiddleware:
    """Lets a request through if it presents a known key, and only known keys."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        """Guard `app` with these keys; with none, nothing passes but the open paths."""
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

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
        known = [self._is_known(key) for key in _presented_keys(scope["headers"])]
        return bool(known) and all(known)

    def _is_known(self, key: bytes) -> bool:
        """Compare with every key, in a time that depends on neither the match nor its place.

        Hashing first makes the lengths equal, which `compare_digest` would otherwise show.
        """
        digest = _digest(key)
        known = False
        for candidate in self._digests:
            known |= hmac.compare_digest(digest, candidate)
        return known


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _presented_keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """All credentials in the request; one in a wrong scheme counts as a wrong key."""
    for name, value in headers:
        if name == b"authorization":
            yield value[len(_BEARER) :].strip() if value.lower().startswith(_BEARER) else b""
        elif name == b"x-api-key":
            yield value

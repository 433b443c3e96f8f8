"""The Host header: exactly one, well-formed, and of the names this server is known by, if any are configured.

A page from elsewhere whose own name was made to point at this server (DNS rebinding) still sends that name. Nothing in
the server reads Host otherwise; addresses are never built from it.
"""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth import OPEN_PATHS
from server.error_catalogue import INVALID_HOST
from server.openai.errors import ApiError, error_response

_NAME = r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?"
_BRACKETED = r"\[[0-9a-f:.]+\]"
_HOST = re.compile(rf"({_NAME}|{_BRACKETED})(?::[0-9]{{0,5}})?", re.IGNORECASE)
_ALLOWED = re.compile(rf"(?:\*\.)?{_NAME}|{_BRACKETED}")


def allowed_host(text: str) -> str:
    """A host of `--allowed-host` in the form that is compared; ``*.`` stands for any name below the rest.

    Raises:
        ValueError: it is no host.
    """
    host = text.strip().lower()
    if not _ALLOWED.fullmatch(host):
        raise ValueError(
            "must be names or addresses without port, such as api.example.com, *.example.com or [::1]"
        )
    return host


class HostMiddleware:
    """Answers 400 to another Host. Probes pass: orchestrators send them to an address, some without any Host."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        """Allow hosts as `allowed_host` gives them; with none, any."""
        self._app = app
        self._names = frozenset(host for host in allowed if not host.startswith("*"))
        self._endings = tuple(host[1:] for host in allowed if host.startswith("*"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        await error_response(ApiError.of(INVALID_HOST))(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        found = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
        if found is None:
            return False
        host = found[1].lower()
        return not (self._names or self._endings) or host in self._names or host.endswith(self._endings)

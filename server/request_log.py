"""One line in the log per request: how it ended, how long it took, what it cost. Never what was said."""

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

ACCOUNT_CHARS = 8
"""Enough to tell keys apart in a log; an account is no secret, but long."""


@dataclass(slots=True)
class RequestNotes:
    """What is learnt about a request on its way.

    Attributes:
        answer: id of the answer, with which the engine's ids of its sequences begin.
        prompt_tokens, cached_tokens, generated_tokens: of all its sequences together.
        loops: that its sequences ran.
        first_token: monotonic seconds.
        finish_reasons: in the order in which its sequences ended.
    """

    answer: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    loops: int = 0
    first_token: float | None = None
    finish_reasons: list[str] = field(default_factory=list)


_notes: ContextVar[RequestNotes | None] = ContextVar("request_notes", default=None)


def current_notes() -> RequestNotes | None:
    """Where to note things about the request that is being served; None if nobody will read it."""
    return _notes.get()


class RequestLogMiddleware:
    """Writes the line when the response has ended, streams included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes, status, started = RequestNotes(), 0, time.monotonic()
        _notes.set(notes)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            logger.info("request", extra={"fields": _fields(scope, notes, status, started)})


def _fields(scope: Scope, notes: RequestNotes, status: int, started: float) -> dict[str, Any]:
    """What the line says; status 0 is a client that left before there was one."""
    state = scope.get("state", {})
    fields: dict[str, Any] = {
        "request_id": state.get("request_id", ""),
        "method": scope["method"],
        "path": getattr(scope.get("route"), "path", "unmatched"),
        "status": status,
        "seconds": round(time.monotonic() - started, 6),
    }
    if account := state.get("account"):
        fields["account"] = account[:ACCOUNT_CHARS]
    if notes.answer:
        if notes.first_token is not None:
            fields["first_token_seconds"] = round(notes.first_token - started, 6)
        fields |= {
            "answer": notes.answer,
            "prompt_tokens": notes.prompt_tokens,
            "cached_tokens": notes.cached_tokens,
            "generated_tokens": notes.generated_tokens,
            "loops": notes.loops,
            "finish_reasons": ",".join(notes.finish_reasons),
        }
    return fields

"""One line in the log per request: how it ended, how long it took, what it cost. Never what was said."""

import logging
from typing import Any

from server.request_notes import FinishedRequest, RequestNotes

logger = logging.getLogger(__name__)

ACCOUNT_CHARS = 8
"""Enough to tell keys apart in a log; an account is no secret, but long."""


def log_request(request: FinishedRequest) -> None:
    """Write the line of a request that has ended."""
    logger.info("request", extra={"fields": _fields(request)})


def _fields(request: FinishedRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": request.request_id,
        "method": request.method,
        "path": request.route,
        "status": request.status,
        "seconds": round(request.ended - request.started, 6),
    }
    if request.account:
        fields["account"] = request.account[:ACCOUNT_CHARS]
    return fields | _answer_fields(request.notes, request.started) if request.notes.answer else fields


def _answer_fields(notes: RequestNotes, started: float) -> dict[str, Any]:
    """What only a request has that the engine was asked for."""
    times = {
        "queue_seconds": _between(notes.submitted, notes.begun),
        "first_token_seconds": _between(started, notes.first_token),
        "decode_seconds": _between(notes.first_token, notes.last_token),
    }
    return {name: seconds for name, seconds in times.items() if seconds is not None} | {
        "answer": notes.answer,
        "prompt_tokens": notes.prompt_tokens,
        "cached_tokens": sum(notes.cached_tokens.values()),
        "generated_tokens": notes.generated_tokens,
        "loops": notes.loops,
        "finish_reasons": ",".join(notes.finish_reasons),
    }


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)

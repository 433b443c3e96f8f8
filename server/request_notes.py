"""What is learnt about a request on its way, for whoever tells about it at its end: the log, traces."""

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http_metrics import method_of, route_of

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestNotes:
    """What the parts of the server that work on a request write down. Times are monotonic seconds.

    Attributes:
        answer: id of the answer, with which the engine's ids of its sequences begin.
        prompt_tokens, generated_tokens: of all its sequences together.
        cached_tokens: prompt tokens from the prefix cache, by sequence.
        loops: that its sequences ran.
        submitted: when the engine was given its sequences.
        begun: when the scheduler took up the first of them; None if it didn't.
        first_token, last_token: when they came, of all its sequences.
        finish_reasons: in the order in which its sequences ended: "stop", "length", "abort", "error".
    """

    answer: str = ""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: dict[int, int] = field(default_factory=dict)
    loops: int = 0
    submitted: float | None = None
    begun: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finish_reasons: list[str] = field(default_factory=list)

    def on_output(self, sequence: int, tokens: int, cached_tokens: int, loops: int) -> None:
        """The engine has given something to a sequence."""
        self.loops = loops
        self.cached_tokens[sequence] = cached_tokens
        if tokens:
            self.generated_tokens += tokens
            self.last_token = time.monotonic()
            if self.first_token is None:
                self.first_token = self.last_token


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """An HTTP request whose response has ended, streams included.

    Attributes:
        route: its template, or "unmatched".
        status: of the response; 500 if there was none.
        account: whose it was; "" without keys.
        started, ended: monotonic seconds.
        headers: of the request, names in lower case.
    """

    request_id: str
    method: str
    route: str
    status: int
    account: str
    started: float
    ended: float
    headers: Sequence[tuple[bytes, bytes]]
    notes: RequestNotes


Observer = Callable[[FinishedRequest], None]

_notes: ContextVar[RequestNotes | None] = ContextVar("request_notes", default=None)


def current_notes() -> RequestNotes | None:
    """Where to note things about the request that is being served; None if nobody will read it."""
    return _notes.get()


class RequestNotesMiddleware:
    """Opens the notes of each request, and hands them to the observers at its end."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes, status, started = RequestNotes(), 500, time.monotonic()
        _notes.set(notes)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._tell(_finished(scope, notes, status, started))

    def _tell(self, request: FinishedRequest) -> None:
        for observe in self._observers:
            try:
                observe(request)
            except Exception:  # who tells of a request must not cost it
                logger.exception("a request could not be told of")


def _finished(scope: Scope, notes: RequestNotes, status: int, started: float) -> FinishedRequest:
    state = scope.get("state", {})
    return FinishedRequest(
        request_id=state.get("request_id", ""),
        method=method_of(scope),
        route=route_of(scope),
        status=status,
        account=state.get("account", ""),
        started=started,
        ended=time.monotonic(),
        headers=scope["headers"],
        notes=notes,
    )

"""Clients that are slow, silent or half gone. The server has to end these connections by itself."""

from collections.abc import Callable, Iterable, Iterator

from tools.attack.canary import token_prompt
from tools.attack.case import ANY, COMPLETIONS, Case, Row, body, once
from tools.attack.target import Target, head
from tools.attack.wire import End, Exchange, Manners, Outcome, Piece

PATIENCE = 45.0
"""Seconds until a connection counts as held open for ever; the longest deadline of a server is 30."""
STALL = 50.0
BUFFERS = 6 << 20
"""Bytes that two ends of a connection on Linux may hold between them; a shorter answer shows nothing."""


def _slow(row: str, name: str, pieces: Callable[[], Iterable[Piece]], deadline: float = PATIENCE) -> Case:
    return Case(
        row, name, pieces, ANY, "", Manners(deadline=deadline), may_close=True, plain_error=True, slow=True
    )


def expecting(target: Target) -> Iterator[Case]:
    content = body(target, COMPLETIONS, {})
    headers = target.headers(
        Content_Type="application/json", Content_Length=str(len(content)), Expect="100-continue"
    )
    yield _slow("H46", "100-continue, then nothing", once(head("POST", COMPLETIONS, headers)))


def slow_heads(target: Target) -> Iterator[Case]:
    request = target.get("/v1/models")
    yield _slow("H47", "not a byte", once(b""))
    yield _slow("H47", "half a head", once(request[: len(request) // 2]))

    def by_bytes() -> Iterator[Piece]:
        yield from (Piece(b"%c" % byte, 1.0) for byte in request)

    def endless() -> Iterator[Piece]:
        yield Piece(request[:-2])
        yield from (Piece(b"X-%d: y\r\n" % number, 1.0) for number in range(60))

    yield _slow("H47", "a byte of the head per second", by_bytes)
    yield _slow("H47", "a header per second", endless)


def slow_bodies(target: Target) -> Iterator[Case]:
    content = body(target, COMPLETIONS, {})
    request = target.post(COMPLETIONS, content)
    yield _slow("H48", "half a body", once(request[: -len(content) // 2]))

    def by_bytes() -> Iterator[Piece]:
        yield Piece(request[: -len(content)])
        yield from (Piece(b"%c" % byte, 1.0) for byte in content)

    chunked = target.headers(Content_Type="application/json", Transfer_Encoding="chunked")

    def by_chunks() -> Iterator[Piece]:
        yield Piece(head("POST", COMPLETIONS, chunked))
        yield from (Piece(b"1\r\n%c\r\n" % byte, 1.0) for byte in content)

    yield _slow("H48", "a byte of the body per second", by_bytes)
    yield _slow("H48", "a chunk per second", by_chunks)


def unread(target: Target) -> Iterator[Case]:
    """A stream larger than the system's buffers, of which nothing is read; most of it, the prompt, comes at once."""
    prompt = token_prompt("unread", target.context * 3 // 4, target.vocab_size)
    fields = {"prompt": prompt, "max_tokens": 100, "n": 8, "logprobs": 20, "echo": True, "ignore_eos": True}
    content = body(target, COMPLETIONS, fields, stream=True)

    def ended(done: Exchange) -> str | None:
        kept = [answer for answer in done.answers if answer.complete and len(answer.body) > BUFFERS]
        return "the whole stream was kept for a client that read nothing" if kept else None

    yield Case(
        "H49",
        "a stream that is not read",
        once(target.post(COMPLETIONS, content)),
        ANY,
        "",
        Manners(deadline=STALL + 30, unread=STALL),
        may_close=True,
        plain_error=True,
        slow=True,
        check=ended,
    )


def half_closed(target: Target) -> Iterator[Case]:
    """A client that has said everything and still listens: it may be served or dropped, but not kept."""
    for stream in (False, True):
        request = target.post(COMPLETIONS, body(target, COMPLETIONS, {}, stream=stream))
        name = "stream" if stream else "whole"
        yield Case(
            "H50",
            f"half-closed after the request, {name}",
            once(request),
            ANY,
            COMPLETIONS,
            Manners(End.FIN),
            may_close=True,
        )
        for end in (End.FIN, End.RESET):
            yield Case(
                "H50",
                f"{end} within the body, {name}",
                once(request[:-5]),
                ANY,
                "",
                Manners(end),
                may_close=True,
                plain_error=True,
            )


def idle_after_answer(target: Target) -> Iterator[Case]:
    """A kept-alive connection without a second request."""

    def closed(done: Exchange) -> str | None:
        return None if done.outcome is Outcome.CLOSED else "the idle connection was kept"

    yield Case(
        "H51",
        "idle after an answer",
        once(target.get("/v1/models")),
        ANY,
        "",
        Manners(answers=2, deadline=PATIENCE),
        may_close=True,
        slow=True,
        check=closed,
    )


ROWS = (
    Row("H46", "`Expect: 100-continue` and no body", expecting),
    Row("H47", "silence, half a head, a byte or a header per second", slow_heads),
    Row("H48", "half a body, a byte or a chunk per second", slow_bodies),
    Row("H49", "a reader that never reads", unread),
    Row("H50", "half-close and reset around the body (more under disconnects)", half_closed),
    Row("H51", "an idle connection after an answer", idle_after_answer),
)

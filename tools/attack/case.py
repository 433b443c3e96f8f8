"""A hostile input as data: what is sent, and what may come back."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.attack.target import Dialect, Target
from tools.attack.wire import End, Exchange, Manners, Piece

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BOTH = (COMPLETIONS, CHAT)

BAD = frozenset({400})
GOOD = frozenset({200})
EITHER = BAD | GOOD
TOO_LARGE = frozenset({400, 413})
REFUSED = frozenset({400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 421, 426, 429, 431})
"""Any refusal of the status policy. 422 is not in it."""
ANY = GOOD | REFUSED

Check = Callable[[Exchange], str | None]


@dataclass(frozen=True, slots=True)
class Case:
    """One connection.

    Attributes:
        row: of the catalogue.
        name: tells it from the row's other cases.
        pieces: makes what is sent, when it is sent; some is large.
        want: statuses that are right.
        path: which API answers, which decides what a good answer looks like.
        may_close: closing the connection without an answer is right too.
        plain_error: the error may come from the HTTP parser, without OpenAI's object.
        slow: takes long by design; run beside the others.
        check: says what else is wrong with the exchange, or None.
    """

    row: str
    name: str
    pieces: Callable[[], Iterable[Piece]]
    want: frozenset[int]
    path: str = ""
    manners: Manners = field(default_factory=Manners)
    may_close: bool = False
    plain_error: bool = False
    slow: bool = False
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the catalogue.

    Attributes:
        only: the dialects that have what the row is about; empty for all.
        cases: its inputs for one server.
    """

    id: str
    what: str
    cases: Callable[[Target], Iterator[Case]]
    only: frozenset[Dialect] = frozenset()

    def applies_to(self, target: Target) -> bool:
        return not self.only or target.dialect in self.only


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON text that `json.dumps` would not write."""

    text: str


Fields = Mapping[str, Any]


def body(target: Target, path: str, fields: Fields, *, stream: bool = False) -> bytes:
    """A small valid request with some fields replaced; a field that is `...` is left out."""
    values: dict[str, Any] = {"model": target.model, "max_tokens": 4, "temperature": 0}
    if path == CHAT:
        values["messages"] = [{"role": "user", "content": "Write a loop."}]
    else:
        values["prompt"] = "def f(x):"
    if stream:
        values["stream"] = True
    return encode({**values, **fields})


def encode(values: Fields) -> bytes:
    """JSON; escapes everything beyond ASCII, also lone surrogates."""
    parts = [
        f"{json.dumps(name)}:{value.text if isinstance(value, Raw) else json.dumps(value)}"
        for name, value in values.items()
        if value is not ...
    ]
    return ("{" + ",".join(parts) + "}").encode()


def once(data: bytes) -> Callable[[], Iterable[Piece]]:
    """The pieces of a request that is sent in one go."""
    return lambda: (Piece(data),)


def crossed(
    target: Target,
    row: str,
    name: str,
    fields: Fields,
    want: frozenset[int] = BAD,
    *,
    apis: tuple[str, ...] = BOTH,
    check: Check | None = None,
    seconds: float = 20.0,
) -> Iterator[Case]:
    """The same fields in both APIs, whole and streamed."""
    for path in apis:
        for stream in (False, True):
            how = f"{path.removeprefix('/v1/')} {'stream' if stream else 'whole'}: {name}"

            def pieces(path: str = path, stream: bool = stream) -> Iterable[Piece]:
                return (Piece(target.post(path, body(target, path, fields, stream=stream))),)

            yield Case(row, how, pieces, want, path, Manners(deadline=seconds), check=check)


def values(
    target: Target,
    row: str,
    field_name: str,
    hostile: Iterable[Any],
    want: frozenset[int] = BAD,
    *,
    apis: tuple[str, ...] = BOTH,
    **others: Any,
) -> Iterator[Case]:
    """A field with one hostile value after another."""
    for value in hostile:
        shown = value.text if isinstance(value, Raw) else repr(value)
        name = f"{field_name}={shown[:40]}"
        yield from crossed(target, row, name, {field_name: value, **others}, want, apis=apis)


def posted(
    target: Target,
    row: str,
    name: str,
    path: str,
    content: bytes,
    want: frozenset[int] = BAD,
    **headers: str | None,
) -> Case:
    """A body written by hand."""
    return Case(row, f"{path}: {name}", once(target.post(path, content, **headers)), want, path)


def wire(
    row: str,
    name: str,
    data: bytes,
    want: frozenset[int] = REFUSED,
    *,
    answers: int = 1,
    end: End = End.WAIT,
    may_close: bool = True,
    check: Check | None = None,
    path: str = "",
) -> Case:
    """Raw bytes, to which the HTTP parser may answer by itself."""
    return Case(
        row,
        name,
        once(data),
        want,
        path,
        Manners(end, answers),
        may_close=may_close,
        plain_error=True,
        check=check,
    )

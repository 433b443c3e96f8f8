"""How deep and how large a client's JSON is, found out without recursion: Python's own limit would be a 500."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_INNER: dict[type, Callable[[Any], Iterable[object]]] = {dict: dict.values, list: iter}


_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""String literals; one that does not end goes to the end of the text, so that nothing is looked at twice."""


def levels(value: object) -> Iterator[list[object]]:
    """The value, then all that it holds directly, and so on inwards, as long as there is something."""
    level = [value]
    while level:
        yield level
        level = [child for one in level if type(one) in _INNER for child in _INNER[type(one)](one)]


def containers(value: object) -> Iterator[list[object]]:
    """The same, but of objects and lists only; nothing if the value is neither."""
    level = [value] if type(value) in _INNER else []
    while level:
        yield level
        level = [child for one in level for child in _INNER[type(one)](one) if type(child) in _INNER]


def may_be_deeper_than(text: bytes, depth: int) -> bool:
    """Whether JSON text could be nested so deep; of most texts it shows at once that they are not."""
    return _openings(text) > depth


def deeper_than(value: object, depth: int) -> bool:
    """Whether more objects and lists than that are within one another; no more than these are looked at."""
    return any(number > depth for number, _ in enumerate(containers(value), 1))


def holds_more_containers(text: bytes, most: int) -> bool:
    """Whether JSON text has more objects and lists than that, before it is decoded: that could take seconds."""
    return _openings(text) > most and _openings(_STRINGS.sub(b"", text)) > most


def _openings(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")

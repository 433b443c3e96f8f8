"""How deep a client's JSON is nested, found out without recursion: Python's own limit would be a 500."""

from collections.abc import Iterable, Iterator
from itertools import islice

MAX_SCHEMA_DEPTH = 64


def levels(value: object) -> Iterator[list[object]]:
    """The value, then all that it holds directly, and so on inwards, as long as there is something."""
    level = [value]
    while level:
        yield level
        level = [child for one in level for child in _children(one)]


def deeper_than(value: object, depth: int) -> bool:
    """Whether there are more than so many levels; no more than these are looked at."""
    return next(islice(levels(value), depth, None), None) is not None


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

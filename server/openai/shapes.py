"""Reads nested JSON of request bodies by hand: one kind of thing per function, one error at most.

For lists whose entries have many shapes (items of a conversation, content parts, tools), where a validator would try
every shape and report on each.
"""

from typing import Any, NoReturn

from engine.errors import InvalidRequestError

MAX_SHOWN = 64


def wrong(where: str, problem: str) -> NoReturn:
    """Refuse the request.

    Args:
        where: path of the field, such as ``input.3.content``.
        problem: goes on after the path: "must be a string".

    Raises:
        InvalidRequestError: always.
    """
    raise InvalidRequestError(f"{where} {problem}.", param=where)


def objects(value: object, where: str, most: int) -> list[dict[str, Any]]:
    """A list of at most `most` objects."""
    if not isinstance(value, list):
        wrong(where, "must be a list of objects")
    if len(value) > most:
        wrong(where, f"may have at most {most} entries")
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            wrong(f"{where}.{index}", "must be an object")
    return value


def text(entry: dict[str, Any], name: str, where: str) -> str:
    """The string at `name`, which must be there."""
    value = entry.get(name)
    if not isinstance(value, str):
        wrong(f"{where}.{name}", "must be a string")
    return value


def optional_text(entry: dict[str, Any], name: str, where: str) -> str | None:
    """The string at `name`, if there is one."""
    return None if entry.get(name) is None else text(entry, name, where)


def shown(value: object) -> str:
    """A client's own word, short and harmless enough for an error message; of a list or object only that it is one."""
    if isinstance(value, dict | list):  # writing it out may take more levels than Python has
        return "an object" if isinstance(value, dict) else "a list"
    return ascii(value)[:MAX_SHOWN]

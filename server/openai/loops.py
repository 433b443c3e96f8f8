"""The loop budget of a request: `loops` in the body, or the header ``X-Loops`` for clients that can't add a field."""

from typing import Any

from starlette.datastructures import Headers

from server.openai.errors import ApiError

LOOPS = "loops"
HEADER = "x-loops"
MAX_DIGITS = 9


def add_header_loops(values: dict[str, Any], headers: Headers) -> None:
    """Put the header's budget into a body that has none. Whether the model has so many loops is checked later.

    Raises:
        ApiError: the header and the body, or two headers, differ.
    """
    given: list[Any] = [_number(text) for text in headers.getlist(HEADER)]
    if not given:
        return
    if values.get(LOOPS) is not None:
        given.append(values[LOOPS])
    if any(loops != given[0] for loops in given):
        raise ApiError(400, "The header X-Loops and the field loops differ; send only one.", param=LOOPS)
    values[LOOPS] = given[-1]


def _number(text: str) -> int | str:
    """The header's number; what is none stays text, which is refused like a body's."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else text

"""What the XML formats share: parameters between tags, with values that their schema explains."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from server.detokenize import overlap
from server.openai.tool_parsers.json_text import to_json
from server.openai.tool_parsers.parser import Reading, ToolCallParser
from server.openai.tool_parsers.schema_types import STRING, leaves, properties, read_value

MAX_TAG_CHARS = 300

Schemas = Mapping[str, dict[str, Any]]
"""The parameters' schema of each function, by name."""


class XmlParser(ToolCallParser):
    """Reads tags and values; a string is passed on as it comes, another value when it is complete.

    Args:
        line_breaks: a value has a line break of the format's before and after it.
    """

    def __init__(self, schemas: Schemas, *openers: str, line_breaks: bool) -> None:
        super().__init__(*openers)
        self._schemas = schemas
        self._line_breaks = line_breaks

    def _tag(self) -> Reading[str]:
        """The tag that comes next, after white space, left where it is; empty if something else comes."""
        at = yield from self._solid()
        while not (self._ended or (end := self._text.find(">", at, at + MAX_TAG_CHARS)) >= 0):
            if self._text[at] != "<" or len(self._text) >= at + MAX_TAG_CHARS:
                return ""
            yield
        end = self._text.find(">", at, at + MAX_TAG_CHARS)
        return self._text[at : end + 1] if end >= 0 and self._text[at] == "<" else ""

    def _take_tag(self) -> None:
        self._take(self._text.index(">") + 1)

    def _bounded(self, marker: str) -> Reading[str | None]:
        """Text up to a marker, both taken; None, and nothing taken, if it is far away or missing."""
        while (at := self._text.find(marker)) < 0:
            if self._ended or len(self._text) >= MAX_TAG_CHARS + len(marker):
                return None
            yield
        if at > MAX_TAG_CHARS:
            return None
        text = self._take(at)
        self._take(len(marker))
        return text

    def _value(self, function: str, name: str, closer: str, first: bool) -> Reading[bool]:
        """Read a value up to its closing tag, as one more member of the arguments; False if it was cut off."""
        parameters = self._schemas.get(function, {})
        schema = properties(parameters).get(name, {"type": STRING})
        types = frozenset(leaf.type for leaf in leaves(schema, parameters))
        self._arguments(("" if first else ", ") + to_json(name) + ": ")
        if types <= {STRING}:
            self._arguments('"')
            whole = yield from self._until(closer, lambda text: self._arguments(to_json(text)[1:-1]))
            self._arguments('"' if whole else "")
            return whole
        parts: list[str] = []
        whole = yield from self._until(closer, parts.append)
        self._arguments(_as_json("".join(parts), types))
        return whole

    def _until(self, closer: str, give: Callable[[str], None]) -> Reading[bool]:
        """Give the text of a value, in pieces, and take its closing tag; False if the text ended before it."""
        at_start = self._line_breaks
        end = "\n" + closer if self._line_breaks else closer
        while True:
            if at_start and self._text:
                at_start = False
                self._text = self._text.removeprefix("\n")
            found = self._text.find(closer)
            if found >= 0:
                text = self._take(found)
                self._take(len(closer))
                give(text.removesuffix("\n") if self._line_breaks else text)
                return True
            held = max(overlap(self._text, end), overlap(self._text, closer))
            give(self._take(len(self._text) - (0 if self._ended else held)))
            if self._ended:
                return False
            yield


def _as_json(text: str, types: frozenset[str]) -> str:
    try:
        return to_json(read_value(text, types))
    except ValueError:  # a number beyond what floats hold
        return json.dumps(text, ensure_ascii=False)


def value_text(value: Any) -> str:
    """A value as it stands between tags."""
    return value if isinstance(value, str) else to_json(value)

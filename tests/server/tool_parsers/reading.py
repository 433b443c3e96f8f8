"""Runs a parser over a text in pieces and puts together what comes."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from server.openai.tool_parsers.parser import Arguments, CallEnd, CallStart, Piece, Text, ToolCallParser


@dataclass
class Read:
    """Everything of one answer."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    complete: int = 0
    order: list[str] = field(default_factory=list)

    @property
    def parsed(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]

    def take(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Text():
                    self.content += piece.text
                case CallStart():
                    self.calls.append((piece.name, ""))
                case Arguments():
                    name, arguments = self.calls[-1]
                    self.calls[-1] = (name, arguments + piece.text)
                case CallEnd():
                    self.complete += 1
            if self.order[-1:] != [type(piece).__name__]:
                self.order.append(type(piece).__name__)


def read(make: Callable[[], ToolCallParser], text: str, cuts: Sequence[int] = ()) -> Read:
    """The answer, read in the pieces that `cuts` make of it."""
    parser, out = make(), Read()
    borders = [0, *sorted(cuts), len(text)]
    for start, end in itertools.pairwise(borders):
        out.take(parser.push(text[start:end]))
    out.take(parser.finish())
    return out


def cuts_of(text: str) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(text)), max_size=12)


def every_character(text: str) -> range:
    return range(1, len(text))


MARKS = [
    *(
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "<function=f>",
        "</function>",
        "<parameter=a>",
        "</parameter>",
    ),
    *("<iquest_tool_call>", "</iquest_tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *(
        '{"name": "f", "arguments": {',
        '{"name": "f", "arguments": {}}',
        '"arguments"',
        '{"a": ',
        "}",
        "]",
        '"',
    ),
    *("\n", " ", "<", ">", "f", "1", "\\", "é", "x", ","),
]
NOISE = st.lists(st.sampled_from(MARKS), max_size=14).map("".join)
"""Texts that look like calls without being any."""

"""What all tool-call parsers share: text in any pieces in, content and calls out.

A parser is written as a generator that `yield`s when it needs more text, so that it reads like a parser of a whole text
and can't depend on how the text was cut. What it doesn't understand is content: text is never lost.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from server.detokenize import overlap

T = TypeVar("T")
Reading = Generator[None, None, T]
"""Yields to wait for more text; returns a T."""

SPACES = " \t\r\n"
MAX_NAME_CHARS = 256
NAME = re.compile(r"[^\s<>\"\\\x00-\x1f]{1,256}")
"""A function's name as a model may write it. Whether there is such a function is the client's to say."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text outside calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call has begun."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the JSON text of the current call's arguments."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The current call is complete: its arguments are one JSON object. A call that was cut off has no end."""


Piece = Text | CallStart | Arguments | CallEnd


class ToolCallParser(ABC):
    """Splits one answer's text into content and calls.

    White space directly before and after a call belongs to the format and is dropped.

    Args:
        openers: texts that begin a call.
    """

    def __init__(self, *openers: str) -> None:
        self._openers = openers
        self._text = ""  # not yet understood
        self._ended = False
        self._space = ""  # white space that is content unless a call follows
        self._after_call = False
        self._pieces: list[Piece] = []
        self._machine = self._run()
        next(self._machine)

    def push(self, text: str) -> list[Piece]:
        """Take more text; returns what is certain by now."""
        self._text += text
        return self._resume()

    def finish(self) -> list[Piece]:
        """No more text comes; returns the rest."""
        self._ended = True
        return self._resume()

    @abstractmethod
    def _call(self, opener: str) -> Reading[None]:
        """Read a call whose opener has been taken off the text, and leave what follows it.

        If it is no call, give the opener and what was taken to `_content`.
        """

    def _resume(self) -> list[Piece]:
        next(self._machine, None)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _run(self) -> Reading[None]:
        while True:
            opener = yield from self._next_opener()
            if opener is None:
                break
            yield from self._call(opener)
        if not self._after_call:
            self._emit_text(self._space)

    def _next_opener(self) -> Reading[str | None]:
        """Pass content on up to the next opener, which is taken off; None at the end of the text."""
        while True:
            found = [(at, opener) for opener in self._openers if (at := self._text.find(opener)) >= 0]
            if found:
                at, opener = min(found)
                self._content(self._take(at))
                self._take(len(opener))
                return opener
            held = 0 if self._ended else max(overlap(self._text, opener) for opener in self._openers)
            self._content(self._take(len(self._text) - held))
            if self._ended:
                return None
            yield

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def _content(self, text: str) -> None:
        """Text outside calls; white space at its end waits for what follows."""
        text = self._space + text
        solid = text.rstrip(SPACES)
        self._space = text[len(solid) :]
        self._after_call = self._after_call and not solid
        self._emit_text(solid)

    def _emit_text(self, text: str) -> None:
        if text and isinstance(last := self._pieces[-1] if self._pieces else None, Text):
            self._pieces[-1] = Text(last.text + text)
        elif text:
            self._pieces.append(Text(text))

    def _start(self, name: str) -> None:
        self._space = ""
        self._after_call = True
        self._pieces.append(CallStart(name))

    def _arguments(self, text: str) -> None:
        if text and isinstance(last := self._pieces[-1] if self._pieces else None, Arguments):
            self._pieces[-1] = Arguments(last.text + text)
        elif text:
            self._pieces.append(Arguments(text))

    def _end(self) -> None:
        self._pieces.append(CallEnd())

    def _solid(self) -> Reading[int]:
        """Wait for text that is not white space; returns where it begins, the text's length at its end."""
        while True:
            at = len(self._text) - len(self._text.lstrip(SPACES))
            if at < len(self._text) or self._ended:
                return at
            yield

    def _closer(self, closer: str) -> Reading[None]:
        """Take the mark that ends a call, if it is there; one that was cut off counts."""
        while True:
            at = yield from self._solid()
            rest = self._text[at : at + len(closer)]
            if rest == closer or (self._ended and closer.startswith(rest)):
                self._take(at + len(rest))
                return
            if self._ended or not closer.startswith(rest):
                return
            yield

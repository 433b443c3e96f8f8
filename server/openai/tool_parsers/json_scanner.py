"""Follows JSON text as it comes, and says at once where it stops being JSON.

Two faults that models make inside strings are mended, as their meaning is clear: raw control characters (a line break
in a string of code) and a backslash before a character that needs none.
"""

import re
from enum import Enum, auto

MAX_DEPTH = 256

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACE = re.compile(r"[ \t\r\n]+")
_WORD = re.compile(r"[-+.0-9A-Za-z]+")
_SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
_HEX = "0123456789abcdefABCDEF"


class Event(Enum):
    """Why `JsonScanner.step` stopped."""

    MORE = auto()  # the text is used up
    OPENED = auto()  # after a bracket that opens
    CLOSED = auto()  # after a bracket that closes
    BROKEN = auto()  # before a character that can't follow


class _Want(Enum):
    VALUE = auto()
    VALUE_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()


# Pairs of brackets that may be closed.
_ENDS = {_Want.KEY_OR_END: ("{}",), _Want.VALUE_OR_END: ("[]",), _Want.COMMA_OR_END: ("{}", "[]")}


class JsonScanner:
    """Scans one JSON object or array.

    Attributes:
        depth: brackets that are open.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._want = _Want.VALUE
        self._string = False
        self._escape = ""  # a backslash and what of its sequence has come
        self._word = ""

    @property
    def depth(self) -> int:
        return len(self._open)

    def step(self, text: str, start: int = 0) -> tuple[Event, int, str]:
        """Go on with `text` from `start`, up to the next event.

        Returns:
            The event, where it happened, and the JSON up to there, mended.
        """
        at, out = start, []
        while at < len(text):
            if self._string:
                at, piece, fine = self._in_string(text, at)
            else:
                at, piece, fine = self._outside(text, at)
            out.append(piece)
            if not fine:
                return Event.BROKEN, at, "".join(out)
            if not self._string and piece in ("{", "["):
                return Event.OPENED, at, "".join(out)
            if not self._string and piece in ("}", "]"):
                return Event.CLOSED, at, "".join(out)
        return Event.MORE, at, "".join(out)

    def _in_string(self, text: str, at: int) -> tuple[int, str, bool]:
        if self._escape:
            return self._in_escape(text, at)
        if plain := _PLAIN.match(text, at):
            return plain.end(), plain[0], True
        char = text[at]
        if char == "\\":
            self._escape = char
            return at + 1, "", True
        if char == '"':
            self._string = False
            return at + 1, '"', True
        return at + 1, f"\\u{ord(char):04x}", True

    def _in_escape(self, text: str, at: int) -> tuple[int, str, bool]:
        char = text[at]
        if self._escape == "\\" and char != "u":
            self._escape = ""
            if ord(char) < 0x20:
                return at + 1, f"\\\\\\u{ord(char):04x}", True
            return at + 1, "\\" + char if char in '"\\/bfnrt' else "\\\\" + char, True
        if self._escape != "\\" and char not in _HEX:
            return at, "", False
        self._escape += char
        if len(self._escape) < len("\\uXXXX"):
            return at + 1, "", True
        escape, self._escape = self._escape, ""
        return at + 1, escape, True

    def _outside(self, text: str, at: int) -> tuple[int, str, bool]:
        if word := _WORD.match(text, at):
            if self._want not in (_Want.VALUE, _Want.VALUE_OR_END) or not self._open:
                return at, "", False
            self._word += word[0]
            return word.end(), word[0], True
        if self._word:
            if not _SCALAR.fullmatch(self._word):
                return at, "", False
            self._word = ""
            self._want = _Want.COMMA_OR_END
        if space := _SPACE.match(text, at):
            return space.end(), space[0], True
        char = text[at]
        return (at + 1, char, True) if self._structure(char) else (at, "", False)

    def _structure(self, char: str) -> bool:
        """Take a bracket, quote, colon or comma; False if it can't be here."""
        want, within = self._want, self._open[-1] if self._open else ""
        if char in "{[" and want in (_Want.VALUE, _Want.VALUE_OR_END) and self.depth < MAX_DEPTH:
            self._open.append(char)
            self._want = _Want.KEY_OR_END if char == "{" else _Want.VALUE_OR_END
        elif char in "}]" and within + char in _ENDS.get(want, ()):
            self._open.pop()
            self._want = _Want.COMMA_OR_END
        elif char == '"' and want in (_Want.KEY, _Want.KEY_OR_END):
            self._string, self._want = True, _Want.COLON
        elif char == '"' and want in (_Want.VALUE, _Want.VALUE_OR_END) and within:
            self._string, self._want = True, _Want.COMMA_OR_END
        elif char == ":" and want is _Want.COLON:
            self._want = _Want.VALUE
        elif char == "," and want is _Want.COMMA_OR_END and within:
            self._want = _Want.KEY if within == "{" else _Want.VALUE
        else:
            return False
        return True

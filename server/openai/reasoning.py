"""Tells what a model thinks aloud from what it answers."""

from server.detokenize import overlap

THINK, THINK_END = "<think>", "</think>"
_SPACES = " \t\r\n"


class ReasoningSplitter:
    """Splits one answer that may begin with ``<think>…</think>``.

    White space around the reasoning belongs to the format and is dropped.

    Args:
        begun: the prompt already ends within the reasoning.
    """

    def __init__(self, *, begun: bool) -> None:
        self._text = ""  # not yet told apart
        self._thinking: bool | None = True if begun else None  # None: not known yet
        self._said = False  # something on this side of the mark has been said

    def push(self, text: str) -> tuple[str, str]:
        """Take more text; returns new reasoning and new content."""
        return self._split(self._text + text, ended=False)

    def finish(self) -> tuple[str, str]:
        """No more text comes; returns the rest."""
        return self._split(self._text, ended=True)

    def _split(self, text: str, *, ended: bool) -> tuple[str, str]:
        self._text = ""
        if self._thinking is None:
            start = text.lstrip(_SPACES)
            if not ended and len(start) < len(THINK) and THINK.startswith(start):
                self._text = text
                return "", ""
            self._thinking = start.startswith(THINK)
            if not self._thinking:
                self._said = True  # white space at the start of a plain answer is the model's own
                return "", text
            text = start.removeprefix(THINK)
        if not self._thinking:
            return "", self._begin(text)
        thought, mark, rest = text.partition(THINK_END)
        if mark:
            reasoning = self._begin(thought.rstrip(_SPACES))
            self._thinking, self._said = False, False
            return reasoning, self._begin(rest)
        solid = text if ended else text[: len(text) - overlap(text, THINK_END)]
        solid = solid.rstrip(_SPACES)
        self._text = "" if ended else text[len(solid) :]
        return self._begin(solid), ""

    def _begin(self, text: str) -> str:
        """The text without white space at its very start."""
        if not self._said:
            text = text.lstrip(_SPACES)
            self._said = bool(text)
        return text

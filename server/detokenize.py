"""Tokens → text as it may be shown: incremental, with stop strings, across token and UTF-8 borders."""

from engine.tokenizer import StreamDecoder


class TextAssembler:
    """Text of one choice.

    What could still become a stop string is held back until it can't. The stop whose match ends first counts (then the
    one that starts first), so the text doesn't depend on how tokens cut it.

    Args:
        decoder: gives the text of each token.
        stops: non-empty strings that end the text.
        include_stop: keep the stop string in the text.
        min_tokens: stops are not looked at in the text of the first so many tokens.
    """

    def __init__(
        self, decoder: StreamDecoder, stops: list[str], *, include_stop: bool = False, min_tokens: int = 0
    ) -> None:
        self.stopped_by: str | None = None
        self._decoder = decoder
        self._stops = stops
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._tokens = 0
        self._pending = ""

    def push(self, token_id: int) -> str:
        """Take a token; returns text that is final. After a stop was found nothing more comes."""
        if self.stopped_by is not None:
            return ""
        self._tokens += 1
        return self._take(self._decoder.push(token_id), watch=self._tokens > self._min_tokens)

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        if self.stopped_by is not None:
            return ""
        ready = self._take(self._decoder.flush(), watch=self._tokens >= self._min_tokens)
        rest, self._pending = self._pending, ""
        return ready + rest

    def _take(self, piece: str, *, watch: bool) -> str:
        text, self._pending = self._pending + piece, ""
        if not watch or not self._stops:
            return text
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            end, start, self.stopped_by = min(found)
            return text[: end if self._include_stop else start]
        held = max(overlap(text, stop) for stop in self._stops)
        self._pending = text[len(text) - held :]
        return text[: len(text) - held]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, without being all of it."""
    if len(stop) == 1:
        return 0
    tail = text[1 - len(stop) :]
    at = tail.find(stop[0])
    while at >= 0 and not stop.startswith(tail[at:]):
        at = tail.find(stop[0], at + 1)
    return 0 if at < 0 else len(tail) - at

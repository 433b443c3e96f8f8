"""One choice's text as chat events: reasoning, content and tool calls told apart as they come."""

import uuid
from collections.abc import Iterable

from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta, ReasoningDelta, ToolCallDelta
from server.openai.generation import Delta
from server.openai.reasoning import ReasoningSplitter
from server.openai.tool_parsers.parser import Arguments, CallEnd, CallStart, Piece, Text, ToolCallParser


class ChoiceReader:
    """Reads the deltas of one choice.

    Args:
        reasoning: None where the model doesn't think aloud.
        parser: None where no tools are offered.
        one_call: the choice ends with its first complete call.
    """

    def __init__(
        self,
        index: int,
        reasoning: ReasoningSplitter | None,
        parser: ToolCallParser | None,
        *,
        one_call: bool = False,
    ) -> None:
        self.ended = False
        self._index = index
        self._reasoning = reasoning
        self._parser = parser
        self._one_call = one_call
        self._calls = 0
        self._complete = 0

    def read(self, delta: Delta) -> list[ChatEvent]:
        """The events of a delta; `ended` is set with the last one, even where the engine would go on."""
        events: list[ChatEvent] = []
        if self._reasoning is not None or self._parser is not None:
            events += self._read(delta.text, delta.finish_reason is not None)
            if delta.logprobs:
                _attach(events, ContentDelta(self._index, "", delta.logprobs))
        elif delta.text or delta.logprobs:
            events.append(ContentDelta(self._index, delta.text, delta.logprobs))
        if self._one_call and self._complete:
            self.ended = True
            events.append(ChatFinish(self._index, "tool_calls", None))
        elif delta.finish_reason is not None:
            self.ended = True
            called = delta.finish_reason == "stop" and self._complete > 0
            reason = "tool_calls" if called else delta.finish_reason
            events.append(ChatFinish(self._index, reason, delta.stop_reason))
        return events

    def _read(self, text: str, finished: bool) -> list[ChatEvent]:
        reasoning, content = self._split(text, finished)
        events: list[ChatEvent] = [ReasoningDelta(self._index, reasoning)] if reasoning else []
        return events + self._events(self._parse(content, finished))

    def _split(self, text: str, finished: bool) -> tuple[str, str]:
        if self._reasoning is None:
            return "", text
        reasoning, content = self._reasoning.push(text)
        if finished:
            last = self._reasoning.finish()
            reasoning, content = reasoning + last[0], content + last[1]
        return reasoning, content

    def _parse(self, content: str, finished: bool) -> list[Piece]:
        if self._parser is None:
            return [Text(content)] if content else []
        pieces = self._parser.push(content) if content else []
        return pieces + self._parser.finish() if finished else pieces

    def _events(self, pieces: Iterable[Piece]) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        for piece in pieces:
            match piece:
                case Text():
                    events.append(ContentDelta(self._index, piece.text))
                case CallStart():
                    call_id = f"call_{uuid.uuid4().hex[:24]}"
                    events.append(ToolCallDelta(self._index, self._calls, call_id, piece.name, ""))
                    self._calls += 1
                case Arguments():
                    events.append(ToolCallDelta(self._index, self._calls - 1, None, None, piece.text))
                case CallEnd():
                    self._complete += 1
                    if self._one_call:
                        break
        return events


def _attach(events: list[ChatEvent], logprobs: ContentDelta) -> None:
    """Put logprobs, which belong to tokens and not to any piece of text, on the first content there is."""
    for at, event in enumerate(events):
        if isinstance(event, ContentDelta):
            events[at] = ContentDelta(event.index, event.text, logprobs.logprobs)
            return
    events.insert(0, logprobs)

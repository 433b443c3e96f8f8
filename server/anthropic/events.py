"""Chat events as the events and the object of Anthropic's Messages API."""

from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from server.anthropic.errors import error_body
from server.openai.answers import Answer, Usage
from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta, ReasoningDelta, ToolCallDelta
from server.openai.errors import ApiError
from server.openai.typed_events import Event

PING = {"type": "ping"}
_OPENAI_COUNTS = frozenset(
    [
        "prompt_tokens",
        "prompt_tokens_details",
        "completion_tokens",
        "completion_tokens_details",
        "total_tokens",
    ]
)
_NOT_COUNTED = dict.fromkeys(
    ["cache_creation", "inference_geo", "output_tokens_details", "server_tool_use", "service_tier"]
)
"""What the API's schema requires, be it null, and this server does not have."""
_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""Kind of block → type of its deltas, and the name of what they carry."""


@dataclass(slots=True)
class Block:
    """A content block under construction.

    Attributes:
        call: number of the tool call, for a block that is one.
        start: the block as it begins.
        pieces: its text, thinking or JSON text so far.
    """

    call: int | None
    start: dict[str, Any]
    pieces: list[str] = field(default_factory=list)

    def whole(self) -> dict[str, Any]:
        """The block as it stands in a message."""
        content = "".join(self.pieces)
        if self.start["type"] != "tool_use":
            return {**self.start, self.start["type"]: content}
        return {**self.start, "input": _parsed(content)}


class MessageWriter:
    """Gathers one answer's content blocks and tells of them in events; satisfies `typed_events.Writer`."""

    def __init__(self, answer: Answer, usage: Usage, *, fills_context: bool) -> None:
        """Args: fills_context: more tokens were asked for than the context had room for."""
        self._answer = answer
        self._usage = usage
        self._at_limit = "model_context_window_exceeded" if fills_context else "max_tokens"
        self._blocks: list[Block] = []
        self._end: dict[str, Any] = {"stop_reason": None, "stop_sequence": None, "stop_details": None}

    def message(self) -> dict[str, Any]:
        """The message as it is by now."""
        return {
            "id": self._answer.id,
            "type": "message",
            "role": "assistant",
            "model": self._answer.model,
            "content": [block.whole() for block in self._blocks],
            **self._end,
            "container": None,
            "usage": usage_object(self._usage),
        }

    def begin(self) -> list[Event]:
        return [{"type": "message_start", "message": self.message()}, PING]

    def feed(self, event: ChatEvent) -> list[Event]:
        match event:
            case ContentDelta():
                return (
                    self._grow({"type": "text", "text": "", "citations": None}, None, event.text)
                    if event.text
                    else []
                )
            case ReasoningDelta():
                return self._grow({"type": "thinking", "thinking": "", "signature": ""}, None, event.text)
            case ToolCallDelta():
                return self._grow(_tool_use(event), event.call, event.arguments)
            case ChatFinish():
                return self._finish(event)

    def fail(self, error: ApiError) -> list[Event]:
        return [error_body(error)]

    def _grow(self, start: dict[str, Any], call: int | None, piece: str) -> list[Event]:
        """Add to the last block, or begin another if that is not of this kind and call."""
        events: list[Event] = []
        last = self._blocks[-1] if self._blocks else None
        if last is None or (last.start["type"], last.call) != (start["type"], call):
            events = self._stop()
            last = Block(call, start)
            self._blocks.append(last)
            events.append({"type": "content_block_start", "index": self._index(), "content_block": start})
        last.pieces.append(piece)
        if piece:
            kind, name = _DELTAS[start["type"]]
            delta = {"type": kind, name: piece}
            events.append({"type": "content_block_delta", "index": self._index(), "delta": delta})
        return events

    def _finish(self, finish: ChatFinish) -> list[Event]:
        by_string = isinstance(finish.stop_reason, str)
        reasons = {
            "stop": "stop_sequence" if by_string else "end_turn",
            "length": self._at_limit,
            "tool_calls": "tool_use",
        }
        reason = reasons[finish.finish_reason]
        sequence = finish.stop_reason if reason == "stop_sequence" else None
        self._end = {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None}
        usage = usage_object(self._usage)
        return [
            *self._stop(),
            {"type": "message_delta", "delta": {**self._end, "container": None}, "usage": usage},
            {"type": "message_stop"},
        ]

    def _stop(self) -> list[Event]:
        return [{"type": "content_block_stop", "index": self._index()}] if self._blocks else []

    def _index(self) -> int:
        return len(self._blocks) - 1


def _tool_use(call: ToolCallDelta) -> dict[str, Any]:
    """The block as it begins; `caller` says that the model itself calls, and no code that it runs."""
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": {}, "caller": {"type": "direct"}}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Token counts in Anthropic's sense: what came from the cache is not among the input tokens. What this server
    counts beside OpenAI's keeps its own name."""
    counts = usage.as_object()
    cached = counts["prompt_tokens_details"]["cached_tokens"]
    own = {name: value for name, value in counts.items() if name not in _OPENAI_COUNTS}
    return {
        "input_tokens": counts["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": counts["completion_tokens"],
        **_NOT_COUNTED,
        **own,
    }


def _parsed(arguments: str) -> dict[str, Any]:
    """The input of a tool; of one that was cut short, what there is, as clients read a stream."""
    try:
        value = from_json(arguments, allow_partial="trailing-strings")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

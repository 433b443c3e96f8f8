"""Output items of a Response: what each is, and the events that tell of its growth.

An item is added, gets deltas, is done. `Event` numbers (`sequence_number`) are put on by whoever sends them.
"""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

from server.openai.responses_tools import CUSTOM_INPUT, ToolName
from server.openai.typed_events import Event


class Item(Protocol):
    """One output item under construction."""

    def item(self, status: str) -> dict[str, Any]:
        """The item as it is now; status "in_progress", "completed" or "incomplete"."""
        ...

    def opening(self) -> list[Event]:
        """Events after the item was added."""
        ...

    def closing(self) -> list[Event]:
        """Events before the item is done."""
        ...


@dataclass(slots=True)
class MessageItem:
    """Text of the assistant."""

    index: int
    id: str = field(default_factory=lambda: _id("msg"))
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part()]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def opening(self) -> list[Event]:
        return [_part_event("response.content_part.added", self, {**self._part(), "logprobs": []})]

    def grow(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        self.pieces.append(text)
        self.logprobs += logprobs
        delta = {"content_index": 0, "delta": text, "logprobs": logprobs}
        return [_event("response.output_text.delta", self, **delta)]

    def closing(self) -> list[Event]:
        done = {"content_index": 0, "text": "".join(self.pieces), "logprobs": self.logprobs}
        return [
            _event("response.output_text.done", self, **done),
            _part_event("response.content_part.done", self, self._part()),
        ]

    def _part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": "".join(self.pieces),
            "annotations": [],
            "logprobs": self.logprobs,
        }


@dataclass(slots=True)
class ReasoningItem:
    """What the model thinks; given as it is, so there is no summary."""

    index: int
    id: str = field(default_factory=lambda: _id("rs"))
    pieces: list[str] = field(default_factory=list)

    def item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part()]
        return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}

    def opening(self) -> list[Event]:
        return [_part_event("response.content_part.added", self, self._part())]

    def grow(self, text: str) -> list[Event]:
        self.pieces.append(text)
        return [_event("response.reasoning_text.delta", self, content_index=0, delta=text)]

    def closing(self) -> list[Event]:
        return [
            _event("response.reasoning_text.done", self, content_index=0, text="".join(self.pieces)),
            _part_event("response.content_part.done", self, self._part()),
        ]

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": "".join(self.pieces)}


@dataclass(slots=True)
class CallItem:
    """A function call; the arguments are JSON text."""

    index: int
    call: int
    call_id: str
    tool: ToolName
    id: str = field(default_factory=lambda: _id("fc"))
    pieces: list[str] = field(default_factory=list)

    def item(self, status: str) -> dict[str, Any]:
        item = {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "arguments": "".join(self.pieces),
            "call_id": self.call_id,
            "name": self.tool.name,
        }
        return item if self.tool.namespace is None else {**item, "namespace": self.tool.namespace}

    def opening(self) -> list[Event]:
        return []

    def grow(self, arguments: str) -> list[Event]:
        self.pieces.append(arguments)
        return [_event("response.function_call_arguments.delta", self, delta=arguments)] if arguments else []

    def closing(self) -> list[Event]:
        done = {"name": self.tool.name, "arguments": "".join(self.pieces)}
        return [_event("response.function_call_arguments.done", self, **done)]


@dataclass(slots=True)
class CustomCallItem:
    """A call of a tool that takes free text, which the model wrote as a JSON string: it can only be given whole."""

    index: int
    call: int
    call_id: str
    tool: ToolName
    id: str = field(default_factory=lambda: _id("ctc"))
    pieces: list[str] = field(default_factory=list)

    def item(self, status: str) -> dict[str, Any]:
        text = "" if status == "in_progress" else self._input()
        item = {
            "id": self.id,
            "type": "custom_tool_call",
            "status": status,
            "input": text,
            "call_id": self.call_id,
            "name": self.tool.name,
        }
        return item if self.tool.namespace is None else {**item, "namespace": self.tool.namespace}

    def opening(self) -> list[Event]:
        return []

    def grow(self, arguments: str) -> list[Event]:
        self.pieces.append(arguments)
        return []

    def closing(self) -> list[Event]:
        text = self._input()
        return [
            _event("response.custom_tool_call_input.delta", self, delta=text),
            _event("response.custom_tool_call_input.done", self, input=text),
        ]

    def _input(self) -> str:
        """The text; if the model kept no form, or was cut short, what it wrote."""
        arguments = "".join(self.pieces)
        try:
            text = json.loads(arguments)[CUSTOM_INPUT]
        except (ValueError, KeyError, TypeError, RecursionError):
            return arguments
        return text if isinstance(text, str) else arguments


AnyItem = MessageItem | ReasoningItem | CallItem | CustomCallItem


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _event(kind: str, item: AnyItem, **fields: Any) -> Event:
    return {"type": kind, "item_id": item.id, "output_index": item.index, **fields}


def _part_event(kind: str, item: AnyItem, part: dict[str, Any]) -> Event:
    return _event(kind, item, content_index=0, part=part)

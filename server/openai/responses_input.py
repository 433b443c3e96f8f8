"""The input items of a Responses request, as chat messages.

One turn of the assistant may be several items (reasoning, a message, function calls) and is one chat message.
"""

import json
from typing import Any

from engine.errors import InvalidRequestError
from server.openai.limits import RequestLimits
from server.openai.responses_tools import CUSTOM_INPUT, ToolName
from server.openai.shapes import objects, optional_text, shown, text, wrong

ITEMS_PER_MESSAGE = 4
"""A turn of the assistant may be reasoning, a message and several calls."""
MAX_PARTS = 4096

_ROLES = frozenset(["user", "assistant", "system", "developer"])
_TEXT_PARTS = frozenset(["input_text", "output_text", "text", "reasoning_text", "summary_text"])

Message = dict[str, Any]


def read_input(given: object, instructions: str | None, limits: RequestLimits) -> list[Message]:
    """The conversation, instructions first.

    Raises:
        InvalidRequestError: an item that can't be shown to the model, or a malformed one.
    """
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    reader = _Reader()
    for index, item in enumerate(objects(items, "input", ITEMS_PER_MESSAGE * limits.max_messages)):
        reader.take(item, f"input.{index}")
    if not reader.messages:
        wrong("input", "must hold at least one message")
    return _one_system_message(instructions, reader.messages)


class _Reader:
    """Messages so far; the last one is open for more of the same assistant turn."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def take(self, item: dict[str, Any], where: str) -> None:
        match item.get("type", "message"):
            case "message":
                self._message(item, where)
            case "reasoning":
                self._reasoning(item, where)
            case "function_call":
                name = ToolName(text(item, "name", where), optional_text(item, "namespace", where))
                self._call(item, where, name, text(item, "arguments", where))
            case "custom_tool_call":
                name = ToolName(text(item, "name", where), optional_text(item, "namespace", where))
                arguments = json.dumps({CUSTOM_INPUT: text(item, "input", where)}, ensure_ascii=False)
                self._call(item, where, name, arguments)
            case "function_call_output" | "custom_tool_call_output":
                output = joined_text(item.get("output"), f"{where}.output")
                call_id = text(item, "call_id", where)
                self.messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
            case "item_reference":
                raise InvalidRequestError(
                    f"{where} refers to a stored item, but this server stores nothing; send the item itself.",
                    param=where,
                    code="unsupported_parameter",
                )
            case kind:
                wrong(f"{where}.type", f"{shown(kind)} is not supported by this server")

    def _message(self, item: dict[str, Any], where: str) -> None:
        role = text(item, "role", where)
        if role not in _ROLES:
            wrong(f"{where}.role", "must be 'user', 'assistant', 'system' or 'developer'")
        content = joined_text(item.get("content"), f"{where}.content")
        turn = self._open_turn()
        if role == "assistant" and turn is not None and "content" not in turn:
            turn["content"] = content
        else:
            self.messages.append({"role": role, "content": content})

    def _reasoning(self, item: dict[str, Any], where: str) -> None:
        parts = item.get("content") or item.get("summary") or []
        thoughts = joined_text(parts, f"{where}.content")
        if thoughts:
            self.messages.append({"role": "assistant", "reasoning_content": thoughts})

    def _call(self, item: dict[str, Any], where: str, name: ToolName, arguments: str) -> None:
        turn = self._open_turn()
        if turn is None:
            turn = {"role": "assistant"}
            self.messages.append(turn)
        function = {"name": name.for_model(), "arguments": arguments}
        call = {"id": text(item, "call_id", where), "type": "function", "function": function}
        turn.setdefault("content", "")
        turn.setdefault("tool_calls", []).append(call)

    def _open_turn(self) -> Message | None:
        """The last message if it is the assistant's."""
        return self.messages[-1] if self.messages and self.messages[-1]["role"] == "assistant" else None


def joined_text(content: object, where: str) -> str:
    """The text of a content: a string, or a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        wrong(where, "must be a string or a list of text parts")
    return "".join(
        _part_text(part, f"{where}.{index}") for index, part in enumerate(objects(content, where, MAX_PARTS))
    )


def _part_text(part: dict[str, Any], where: str) -> str:
    if part.get("type") == "refusal":
        return text(part, "refusal", where)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        wrong(f"{where}.type", f"{shown(kind)} is not supported; this model reads text only")
    return text(part, "text", where)


def _one_system_message(instructions: str | None, messages: list[Message]) -> list[Message]:
    """Instructions and the system messages that follow them as one: most templates take only one, at the start."""
    count = next(
        (index for index, one in enumerate(messages) if one["role"] not in ("system", "developer")),
        len(messages),
    )
    parts = [*([instructions] if instructions else []), *(one["content"] for one in messages[:count])]
    system = [{"role": "system", "content": "\n\n".join(parts)}] if parts else []
    return [*system, *({"content": "", **one} for one in messages[count:])]

"""Checks of chat messages and of what goes into the template beside them; each raises `ValueError`, as in `checks`."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationInfo

from server.openai.checks import check_content
from server.openai.tool_parsers.json_text import parse_object

MAX_CALLS = 128
MAX_ID_CHARS = 256
MAX_OPTIONS = 32
MAX_OPTION_CHARS = 1024

_OPTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made earlier.

    Attributes:
        arguments: JSON text, as the model wrote it.
    """

    id: str
    name: str
    arguments: str

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it: they want the arguments as an object wherever they are one."""
        parsed = parse_object(self.arguments or "{}")
        arguments = self.arguments if parsed is None else parsed
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


def check_message_content(value: object, info: ValidationInfo) -> str:
    """The text of a message, which only an assistant that called tools may leave out."""
    if value is None and info.data.get("tool_calls"):
        return ""
    return check_content(value)


def check_tool_calls(value: object, info: ValidationInfo) -> list[ToolCall]:
    """The calls of an assistant's message; null is none."""
    if value is None or value == []:
        return []
    if info.data.get("role") != "assistant":
        raise ValueError("is only for messages of the assistant")
    if not isinstance(value, list) or len(value) > MAX_CALLS:
        raise ValueError(f"must be a list of at most {MAX_CALLS} calls")
    return [_tool_call(one) for one in value]


def check_template_options(value: object) -> dict[str, Any]:
    """`chat_template_kwargs`: simple values by name; null is none."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_OPTIONS or not all(map(_OPTION_NAME.fullmatch, value)):
        raise ValueError(f"must be an object of at most {MAX_OPTIONS} names and their values")
    if not all(map(_is_simple, value.values())):
        raise ValueError(
            f"may only have booleans, numbers, null and strings of at most {MAX_OPTION_CHARS} characters as values"
        )
    return value


def _is_simple(value: object) -> bool:
    match value:
        case None | bool():
            return True
        case str():
            return len(value) <= MAX_OPTION_CHARS
        case int() | float():
            return abs(value) < 2**31
        case _:
            return False


def _tool_call(value: Any) -> ToolCall:
    match value:
        case {"function": {"name": str(name), "arguments": str(arguments)}} if name:
            pass
        case {"function": {"name": str(name)} as function} if name and function.get("arguments") is None:
            arguments = "{}"
        case _:
            raise ValueError(
                "must hold {'id', 'type': 'function', 'function': {'name', 'arguments': 'JSON text'}}"
            )
    call_id, kind = value.get("id"), value.get("type")
    if kind not in (None, "function"):
        raise ValueError("may only hold calls of type 'function'")
    if not isinstance(call_id, str | None) or max(len(call_id or ""), len(name)) > MAX_ID_CHARS:
        raise ValueError(f"has an id or a name that is not a string of at most {MAX_ID_CHARS} characters")
    return ToolCall(call_id or "", name, arguments)

"""The functions a client lets the model call, and its wishes about calling them."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationInfo

from server.openai.limits import limits_of
from server.openai.nesting import levels

MAX_DESCRIPTION_CHARS = 1 << 16
MAX_SCHEMA_NODES = 20_000

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


@dataclass(frozen=True, slots=True)
class Tool:
    """One function.

    Attributes:
        parameters: JSON schema of an object.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it."""
        described = {} if self.description is None else {"description": self.description}
        return {
            "type": "function",
            "function": {"name": self.name, **described, "parameters": self.parameters},
        }


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether calls are allowed or forced.

    Attributes:
        name: the one function to call, if the client named it; the mode is "required" then.
    """

    mode: Literal["auto", "none", "required"]
    name: str | None = None


def check_tools(value: object, info: ValidationInfo) -> list[Tool]:
    """The tools of a request; null is none.

    Raises:
        ValueError: not a list of function tools within bounds.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError("must be a list of tools")
    most = limits_of(info).max_tools
    if len(value) > most:
        raise ValueError(f"may have at most {most} tools")
    tools = [_tool(one) for one in value]
    if len({tool.name for tool in tools}) < len(tools):
        raise ValueError("has two functions of the same name")
    return tools


def check_tool_choice(value: object) -> ToolChoice | None:
    """A request's `tool_choice`; null is the default.

    Raises:
        ValueError: none of the forms that exist.
    """
    match value:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(value)
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice("required", name)
        case _:
            raise ValueError(
                "must be 'auto', 'none', 'required' or {'type': 'function', 'function': {'name': ...}}"
            )


def _tool(value: object) -> Tool:
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if not isinstance(function, dict):
        raise ValueError("may only hold {'type': 'function', 'function': {...}}")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("has a function whose name is not 1 to 128 letters, digits or _ . : / -")
    if description is not None and not (
        isinstance(description, str) and len(description) <= MAX_DESCRIPTION_CHARS
    ):
        raise ValueError(
            f"has a function whose description is not a string of at most {MAX_DESCRIPTION_CHARS} characters"
        )
    if not isinstance(function.get("strict"), bool | None):
        raise ValueError("has a function whose strict is not a boolean")
    parameters = function.get("parameters")
    if parameters is None:
        return Tool(name, description)
    _check_schema(parameters)
    return Tool(name, description, parameters)


def _check_schema(parameters: object) -> None:
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise ValueError("has a function whose parameters are not a JSON schema of an object")
    nodes = 0
    for level in levels(parameters):
        nodes += len(level)
        if nodes > MAX_SCHEMA_NODES:
            raise ValueError(f"has a function whose parameters hold more than {MAX_SCHEMA_NODES} values")

"""The tools of a Responses request, as the chat path knows them: functions only.

* A **namespace** (Codex sends each MCP server as one) becomes its functions, which the model knows as
  ``namespace__function``; a call is given back as the pair that the client sent.
* A **custom** tool takes free text: it becomes a function with one string, and its calls become custom calls again. Its
  grammar is shown to the model but does not bind it.
* Tools that OpenAI runs itself don't exist here. Those which agents send along unasked are left out of what the model
  sees; the others, whose work a client would wait for, are refused.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequestError
from server.openai.limits import RequestLimits
from server.openai.shapes import objects, optional_text, shown, text, wrong

logger = logging.getLogger(__name__)

ENTRIES_PER_TOOL = 8
"""Clients list many that are left out, or not among those allowed; how many are offered is checked later."""
LEFT_OUT = frozenset(["web_search", "web_search_preview", "image_generation", "tool_search"])
"""Sent by Codex whether or not the server has them."""

DEFAULT_NAMESPACE = "functions"
CUSTOM_INPUT = "input"
"""The one parameter of the function that stands for a custom tool."""


@dataclass(frozen=True, slots=True)
class ToolName:
    """What the client calls a tool.

    Attributes:
        custom: its input is free text, not JSON.
    """

    name: str
    namespace: str | None = None
    custom: bool = False

    def for_model(self) -> str:
        """The name that the model reads and writes."""
        if self.namespace in (None, DEFAULT_NAMESPACE):
            return self.name
        assert self.namespace is not None
        return f"{self.namespace.rstrip('_')}__{self.name}"


@dataclass(slots=True)
class Tools:
    """The tools of one request.

    Attributes:
        given: as the client wrote them, without those left out.
        functions: as chat completions know them.
        names: the client's name of each, by the model's.
        choice: the chat request's `tool_choice`, or None if there is nothing to say.
    """

    given: list[dict[str, Any]] = field(default_factory=list)
    functions: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, ToolName] = field(default_factory=dict)
    choice: str | dict[str, Any] | None = None

    def client_name(self, name: str | None) -> ToolName:
        """What the client calls the tool that the model calls `name`."""
        return self.names.get(name or "", ToolName(name or ""))


def read_tools(tools: object, choice: object, limits: RequestLimits) -> Tools:
    """Tools and choice of a request.

    Raises:
        InvalidRequestError: a tool that can't be had here, or a malformed one.
    """
    out = Tools()
    most = ENTRIES_PER_TOOL * limits.max_tools
    for index, tool in enumerate(objects([] if tools is None else tools, "tools", most)):
        if isinstance(tool.get("type"), str) and tool["type"] in LEFT_OUT:
            logger.debug("left out a tool of type %s, which this server does not have", tool["type"])
            continue
        out.given.append(tool)
        for name, function in _functions(tool, f"tools.{index}", most):
            if name.for_model() in out.names:
                wrong(f"tools.{index}", f"has the name {shown(name.for_model())} a second time")
            out.names[name.for_model()] = name
            out.functions.append({"type": "function", "function": function})
    _choose(out, choice)
    return out


def _functions(tool: dict[str, Any], where: str, most: int) -> Iterator[tuple[ToolName, dict[str, Any]]]:
    if tool.get("type") != "namespace":
        yield _function(tool, where, None)
        return
    namespace = text(tool, "name", where)
    for index, one in enumerate(objects(tool.get("tools"), f"{where}.tools", most)):
        yield _function(one, f"{where}.tools.{index}", namespace)


def _function(tool: dict[str, Any], where: str, namespace: str | None) -> tuple[ToolName, dict[str, Any]]:
    kind = tool.get("type")
    if kind != "function" and kind != "custom":
        raise InvalidRequestError(
            f"{where}.type {shown(kind)} is not supported: this server runs no tools itself. Use function tools.",
            param=f"{where}.type",
            code="unsupported_parameter",
        )
    name = ToolName(text(tool, "name", where), namespace, kind == "custom")
    description = optional_text(tool, "description", where)
    if name.custom:
        return name, _custom(name.for_model(), description, tool.get("format"))
    function: dict[str, Any] = {"name": name.for_model()}
    given = {"description": description, "parameters": tool.get("parameters"), "strict": tool.get("strict")}
    return name, function | {key: value for key, value in given.items() if value is not None}


def _custom(name: str, description: str | None, form: object) -> dict[str, Any]:
    grammar = form.get("definition") if isinstance(form, dict) else None
    parts = [
        description,
        f"The input must follow this grammar:\n{grammar}" if isinstance(grammar, str) else None,
    ]
    return {
        "name": name,
        "description": "\n\n".join(part for part in parts if part),
        "parameters": {
            "type": "object",
            "properties": {CUSTOM_INPUT: {"type": "string"}},
            "required": [CUSTOM_INPUT],
            "additionalProperties": False,
        },
    }


def _choose(tools: Tools, choice: object) -> None:
    """Fill in the chat request's `tool_choice`."""
    if choice is None or choice == "auto" or choice == "none":
        tools.choice = str(choice) if choice and tools.functions else None
    elif choice == "required":
        tools.choice = "required"
    elif not isinstance(choice, dict):
        wrong("tool_choice", "must be 'none', 'auto', 'required' or an object that names a tool")
    elif choice.get("type") == "allowed_tools":
        _allow(tools, choice)
    else:
        tools.choice = {"type": "function", "function": {"name": _named(tools, choice, "tool_choice")}}


def _allow(tools: Tools, choice: dict[str, Any]) -> None:
    """Show the model the allowed tools only."""
    if choice.get("mode") not in ("auto", "required"):
        wrong("tool_choice.mode", "must be 'auto' or 'required'")
    allowed = {
        _named(tools, one, f"tool_choice.tools.{index}")
        for index, one in enumerate(objects(choice.get("tools"), "tool_choice.tools", len(tools.names)))
    }
    tools.functions = [one for one in tools.functions if one["function"]["name"] in allowed]
    tools.choice = choice["mode"]


def _named(tools: Tools, choice: dict[str, Any], where: str) -> str:
    """The model's name of the tool that a choice names."""
    if choice.get("type") not in ("function", "custom"):
        wrong(f"{where}.type", f"{shown(choice.get('type'))} is not supported; name a function tool")
    name = ToolName(text(choice, "name", where), optional_text(choice, "namespace", where)).for_model()
    if name not in tools.names:
        wrong(where, f"names {shown(name)}, which is not among the tools")
    return name

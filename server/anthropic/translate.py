"""A Messages request, as a chat request.

Content blocks become chat messages: a turn's tool results are messages of their own, before the rest of the turn. What
only marks the prompt for Anthropic's servers (cache_control, signatures, billing headers) is dropped.
"""

import json
import re
from typing import Any

from engine.errors import InvalidRequestError
from server.anthropic.protocol import MessagesRequest, PromptFields
from server.openai.limits import RequestLimits
from server.openai.shapes import objects, optional_text, shown, text, wrong

MAX_BLOCKS = 4096
BETWEEN_TEXTS = "\n\n"

_BILLING = re.compile(r"^x-anthropic-billing-header:[^\n]*\n?")
"""Claude Code begins its system prompt with this line, which differs each time: nothing after it could be cached."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

Message = dict[str, Any]


def chat_fields(fields: PromptFields, limits: RequestLimits) -> dict[str, Any]:
    """The chat request, not yet validated.

    Raises:
        InvalidRequestError: something that can't be had here, or a malformed part.
    """
    for name, value in {"mcp_servers": fields.mcp_servers, "container": fields.container}.items():
        if value:
            raise InvalidRequestError(
                f"{name} is not supported: this server runs no tools itself.", param=name
            )
    chat: dict[str, Any] = {
        "model": fields.model,
        "messages": [*_system(fields.system), *_messages(fields.messages, limits)],
        "tools": _tools(fields.tools, limits),
        "response_format": _response_format(fields),
        "chat_template_kwargs": _thinking(fields.thinking or {}),
        "reasoning_effort": fields.output_config and fields.output_config.effort,
    }
    if chat["messages"][-1]["role"] == "assistant":
        chat["continue_final_message"] = True  # the client wrote the beginning of the answer
    if isinstance(fields, MessagesRequest):
        chat |= _sampling(fields)
    if chat["tools"]:
        chat |= _tool_choice(fields.tool_choice or {"type": "auto"})
    elif fields.tool_choice and fields.tool_choice.get("type") not in ("auto", "none"):
        wrong("tool_choice", "needs tools")
    return {name: value for name, value in chat.items() if value not in (None, [], {})}


def _sampling(fields: MessagesRequest) -> dict[str, Any]:
    return {
        "max_completion_tokens": fields.max_tokens,
        "stream": fields.stream,
        "stop": fields.stop_sequences or None,
        "temperature": fields.temperature,
        "top_p": fields.top_p or None,  # 0 is allowed here and means the default
        "top_k": fields.top_k,
        "min_p": fields.min_p,
        "seed": fields.seed,
        "loops": fields.loops,
    }


def _system(given: object) -> list[Message]:
    if given is None:
        return []
    texts = (
        [given]
        if isinstance(given, str)
        else [_text_of(block, where) for block, where in _blocks(given, "system")]
    )
    content = BETWEEN_TEXTS.join(rest for one in texts if (rest := _BILLING.sub("", one)))
    return [{"role": "system", "content": content}] if content else []


def _messages(given: object, limits: RequestLimits) -> list[Message]:
    """Chat messages; neighbours of the same role are one turn, as in Anthropic's API."""
    turns: list[tuple[str, list[tuple[dict[str, Any], str]]]] = []
    for index, message in enumerate(objects(given, "messages", limits.max_messages)):
        where = f"messages.{index}"
        role = text(message, "role", where)
        if role not in ("user", "assistant", "system"):
            wrong(f"{where}.role", "must be 'user', 'assistant' or 'system'")
        blocks = _blocks(message.get("content"), f"{where}.content")
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    if not turns:
        wrong("messages", "must hold at least one message")
    if turns[-1][0] == "assistant" and any(block.get("type") != "text" for block, _ in turns[-1][1]):
        wrong(
            "messages",
            "may end with an assistant message only if it is text, which the answer then continues",
        )
    out: list[Message] = []
    for role, turn in turns:
        out += [_assistant(turn)] if role == "assistant" else _others(role, turn)
    return out


def _blocks(content: object, where: str) -> list[tuple[dict[str, Any], str]]:
    """Content blocks, each with its path; a string is one text block."""
    if isinstance(content, str):
        return [({"type": "text", "text": content}, where)]
    if not isinstance(content, list):
        wrong(where, "must be a string or a list of content blocks")
    return [(block, f"{where}.{index}") for index, block in enumerate(objects(content, where, MAX_BLOCKS))]


def _others(role: str, blocks: list[tuple[dict[str, Any], str]]) -> list[Message]:
    """A user's turn: results of tools, then the text."""
    results: list[Message] = []
    texts: list[str] = []
    for block, where in blocks:
        if block.get("type") == "tool_result" and role == "user":
            results.append(_tool_result(block, where))
        else:
            texts.append(_text_of(block, where))
    return (
        results if results and not texts else [*results, {"role": role, "content": BETWEEN_TEXTS.join(texts)}]
    )


def _tool_result(block: dict[str, Any], where: str) -> Message:
    given = block.get("content")
    parts = [] if given is None else _blocks(given, f"{where}.content")
    content = BETWEEN_TEXTS.join(_text_of(part, path) for part, path in parts)
    if block.get("is_error"):
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": text(block, "tool_use_id", where), "content": content}


def _assistant(blocks: list[tuple[dict[str, Any], str]]) -> Message:
    """An assistant's turn: what it thought, said and called."""
    thoughts: list[str] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block, where in blocks:
        match block.get("type"):
            case "thinking":
                thoughts.append(text(block, "thinking", where))
            case "redacted_thinking":
                pass  # only Anthropic can read it
            case "tool_use":
                calls.append(_tool_use(block, where))
            case _:
                texts.append(_text_of(block, where))
    message: Message = {"role": "assistant", "content": BETWEEN_TEXTS.join(texts)}
    if thoughts:
        message["reasoning_content"] = BETWEEN_TEXTS.join(thoughts)
    return {**message, "tool_calls": calls} if calls else message


def _tool_use(block: dict[str, Any], where: str) -> dict[str, Any]:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        wrong(f"{where}.input", "must be an object")
    function = {"name": text(block, "name", where), "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": text(block, "id", where), "type": "function", "function": function}


def _text_of(block: dict[str, Any], where: str) -> str:
    if block.get("type") != "text":
        wrong(
            f"{where}.type", f"{shown(block.get('type'))} is not supported here; this model reads text only"
        )
    return text(block, "text", where)


def _tools(given: object, limits: RequestLimits) -> list[dict[str, Any]]:
    out = []
    for index, tool in enumerate(objects([] if given is None else given, "tools", limits.max_tools)):
        where = f"tools.{index}"
        kind = tool.get("type")
        if kind is not None and kind != "custom":
            wrong(f"{where}.type", f"{shown(kind)} is not supported: this server runs no tools itself")
        if not isinstance(tool.get("input_schema"), dict):
            wrong(f"{where}.input_schema", "must be an object")
        function = {"name": text(tool, "name", where), "parameters": tool["input_schema"]}
        extra = {"description": optional_text(tool, "description", where), "strict": tool.get("strict")}
        function |= {key: value for key, value in extra.items() if value is not None}
        out.append({"type": "function", "function": function})
    return out


def _tool_choice(choice: dict[str, Any]) -> dict[str, Any]:
    kind = choice.get("type")
    parallel = False if choice.get("disable_parallel_tool_use") is True else None
    if kind == "tool":
        named = {"type": "function", "function": {"name": text(choice, "name", "tool_choice")}}
        return {"tool_choice": named, "parallel_tool_calls": parallel}
    if not isinstance(kind, str) or kind not in _CHOICES:
        wrong("tool_choice.type", "must be 'auto', 'any', 'tool' or 'none'")
    return {"tool_choice": _CHOICES[kind], "parallel_tool_calls": parallel}


def _thinking(given: dict[str, Any]) -> dict[str, bool]:
    """The switch that most templates of models that think or don't have."""
    kind = given.get("type")
    return {"enable_thinking": kind != "disabled"} if kind in ("enabled", "adaptive", "disabled") else {}


def _response_format(fields: PromptFields) -> dict[str, Any] | None:
    form = (fields.output_config and fields.output_config.format) or fields.output_format
    if not form:
        return None
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        wrong("output_config.format", "must be of type 'json_schema' and have a 'schema'")
    return {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": form["schema"], "strict": True},
    }

"""Chat messages → the model's prompt, through its chat template."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidRequestError
from server.chat_template import ChatTemplate
from server.openai.prompts import Prompt, encode
from server.openai.protocol import ChatMessage, ChatTemplateFields
from server.openai.tool_prompt import plain_turns
from server.openai.tools import Tool
from server.state import AppState

INLINE_TURNS = 64
"""Longer conversations are rendered off the event loop: some templates go through all messages once per message."""


async def chat_prompt(state: AppState, messages: Sequence[ChatMessage], fields: ChatTemplateFields) -> Prompt:
    """Messages and tools through the model's chat template.

    Special tokens spelled in a message's content are parsed as such, as in every server that renders Hugging Face
    templates to text.

    Raises:
        InvalidRequestError: no template, a template error, or fields that don't go together.
    """
    template = state.chat_template
    if template is None:
        raise InvalidRequestError(
            "This model has no chat template; start the server with --chat-template FILE or use /v1/completions.",
            param="messages",
        )
    tools = offered_tools(state, fields)
    turns = [as_turn(message) for message in messages]
    if not state.dialect.template_has_tools and state.dialect.tools is not None:
        turns, for_template = plain_turns(turns, tools, state.dialect.tools), None
    else:
        for_template = [tool.for_template() for tool in tools] or None
    if len(turns) <= INLINE_TURNS:
        text = _render(template, turns, for_template, fields)
    else:
        text = await asyncio.to_thread(_render, template, turns, for_template, fields)
    ids = await encode(state.tokenizer, text, add_special_tokens=False)
    if not ids:
        raise InvalidRequestError(
            "The chat template made an empty prompt of these messages.", param="messages"
        )
    return Prompt(ids, text)


def offered_tools(state: AppState, fields: ChatTemplateFields) -> list[Tool]:
    """The tools that the model is told about; none if calls are forbidden.

    Raises:
        InvalidRequestError: `tools` and `tool_choice` don't go together, or this model's calls can't be read.
    """
    choice = fields.tool_choice
    if choice is not None and choice.mode == "required":
        if not fields.tools:
            raise InvalidRequestError("tool_choice needs tools to choose from.", param="tool_choice")
        if choice.name is not None and choice.name not in {tool.name for tool in fields.tools}:
            raise InvalidRequestError(
                "tool_choice names a function that is not among the tools.", param="tool_choice"
            )
    if not fields.tools or (choice is not None and choice.mode == "none"):
        return []
    if state.dialect.tools is None:
        raise InvalidRequestError(
            "tools are not supported: this server doesn't know in which format the model calls them. "
            "Start it with --tool-call-parser.",
            param="tools",
        )
    return fields.tools


def as_turn(message: ChatMessage) -> dict[str, Any]:
    """A message as templates know it; most don't know the newer name of the system role."""
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": message.content}
    reasoning = message.reasoning_content or message.reasoning
    more = {"name": message.name, "tool_call_id": message.tool_call_id, "reasoning_content": reasoning}
    turn |= {key: value for key, value in more.items() if value is not None}
    if message.tool_calls:
        turn["tool_calls"] = [call.for_template() for call in message.tool_calls]
    return turn


def _render(
    template: ChatTemplate,
    turns: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    fields: ChatTemplateFields,
) -> str:
    options = fields.chat_template_kwargs
    if template.reserved & options.keys():
        raise InvalidRequestError(
            "chat_template_kwargs has a name that the server itself sets.", param="chat_template_kwargs"
        )
    if fields.reasoning_effort is not None:
        options = {"reasoning_effort": fields.reasoning_effort, **options}
    if not fields.continue_final_message:
        return template.render(turns, fields.add_generation_prompt is not False, tools, options)
    if fields.add_generation_prompt:
        raise InvalidRequestError(
            "continue_final_message and add_generation_prompt can't both be true.",
            param="continue_final_message",
        )
    final = turns[-1]["content"].rstrip()
    # The text alone can't be looked for: what the template puts after it may hold it, too ("<" before "<|im_end|>").
    end = secrets.token_hex()
    marked = [*turns[:-1], {**turns[-1], "content": final + end}]
    prompt, found, _ = template.render(marked, False, tools, options).rpartition(end)
    if not final or not found:
        raise InvalidRequestError(
            "continue_final_message needs a last message whose text the chat template keeps.",
            param="continue_final_message",
        )
    return prompt

"""The Response object: what a request asked for, echoed, beside what came of it."""

import time
from dataclasses import dataclass
from typing import Any

from engine.config import GenerationDefaults
from server.openai.answers import Answer, Usage
from server.openai.protocol import ChatCompletionRequest
from server.openai.responses_protocol import ResponsesRequest
from server.openai.responses_tools import Tools


@dataclass(frozen=True, slots=True)
class Echo:
    """Makes Response objects of one request in its various states.

    Attributes:
        tools: what the model was given, which may be less than what was sent.
    """

    answer: Answer
    fields: ResponsesRequest
    chat: ChatCompletionRequest
    tools: Tools
    defaults: GenerationDefaults

    def response(
        self,
        status: str,
        output: list[dict[str, Any]],
        *,
        usage: Usage | None = None,
        error: dict[str, Any] | None = None,
        incomplete: str | None = None,
    ) -> dict[str, Any]:
        """The object; all keys that OpenAI's specification requires are always there.

        Args:
            status: "in_progress", "completed", "incomplete" or "failed".
            incomplete: why it is incomplete.
        """
        return {
            "id": self.answer.id,
            "object": "response",
            "created_at": self.answer.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "model": self.answer.model,
            "output": output,
            "error": error,
            "incomplete_details": None if incomplete is None else {"reason": incomplete},
            "usage": None if usage is None else usage_object(usage),
            **self._settings(),
        }

    def _settings(self) -> dict[str, Any]:
        fields, chat, defaults = self.fields, self.chat, self.defaults
        reasoning, text = fields.reasoning, fields.text
        return {
            "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens,
            "max_tool_calls": fields.max_tool_calls,
            "temperature": _first(chat.temperature, defaults.temperature, 1.0),
            "top_p": _first(chat.top_p, defaults.top_p, 1.0),
            "presence_penalty": chat.presence_penalty or 0.0,
            "frequency_penalty": chat.frequency_penalty or 0.0,
            "top_logprobs": chat.top_logprobs or 0,
            "text": {"format": text_format(fields), "verbosity": (text and text.verbosity) or "medium"},
            "tools": [_with_required(tool) for tool in self.tools.given],
            "tool_choice": fields.tool_choice or "auto",
            "parallel_tool_calls": fields.parallel_tool_calls is not False,
            "reasoning": {
                "effort": reasoning and reasoning.effort,
                "summary": reasoning and reasoning.summary,
            },
            "truncation": "disabled",
            "store": False,
            "background": False,
            "previous_response_id": None,
            "metadata": fields.metadata,
            "user": fields.user,
            "service_tier": "default",
            "prompt_cache_key": fields.prompt_cache_key,
            "safety_identifier": fields.safety_identifier,
        }


def text_format(fields: ResponsesRequest) -> dict[str, Any]:
    """The format of the answer's text, as the client wrote it."""
    return (fields.text and fields.text.format) or {"type": "text"}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Token counts under this API's names; what this server counts beside OpenAI's keeps its own."""
    counts = usage.as_object()
    prompt, completion = counts.pop("prompt_tokens"), counts.pop("completion_tokens")
    cached = counts.pop("prompt_tokens_details", {}).get("cached_tokens", 0)
    details = {"reasoning_tokens": 0, **counts.pop("completion_tokens_details", {})}
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": details,
        **counts,
    }


def _with_required(tool: dict[str, Any]) -> dict[str, Any]:
    """Functions have two more required keys in answers than in requests."""
    return {"parameters": None, "strict": None, **tool} if tool["type"] == "function" else tool


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)

"""``POST /v1/chat/completions``."""

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from engine.messages import TokenLogprob
from server.openai.answers import Chunks, respond_streamed, respond_whole
from server.openai.body import read_body, request_body
from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta, ReasoningDelta, ToolCallDelta
from server.openai.chat_run import ChatRun
from server.openai.logprobs import chat_logprobs
from server.openai.protocol import ChatCompletionRequest
from server.state import AppState, State

router = APIRouter()

KIND = "chat.completion"
CHUNK_KIND = "chat.completion.chunk"


@router.post("/v1/chat/completions", openapi_extra=request_body(ChatCompletionRequest))
async def create_chat_completion(request: Request, state: State) -> Response:
    """Answer a conversation, `n` times."""
    fields = await read_body(request, ChatCompletionRequest)
    chat = _Chat(state, fields, await ChatRun.prepare(state, fields, "chatcmpl"))
    if fields.stream:
        return await respond_streamed(request, chat.chunks(), chat.taken_up)
    return await respond_whole(request, chat.whole())


@dataclass(slots=True)
class _Progress:
    """One choice so far."""

    text: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: ChatFinish | None = None

    def take(self, event: ChatEvent) -> None:
        match event:
            case ContentDelta():
                self.text += event.text
                self.logprobs += event.logprobs
            case ReasoningDelta():
                self.reasoning += event.text
            case ToolCallDelta(id=None):
                self.calls[event.call]["function"]["arguments"] += event.arguments
            case ToolCallDelta():
                self.calls.append(_call(event))
            case ChatFinish():
                self.finish = event

    def message(self) -> dict[str, Any]:
        """The answer's message; keys that only some answers have are left out of the others."""
        content = None if self.calls and not self.text else self.text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class _Chat:
    """One answer in OpenAI's words."""

    def __init__(self, state: AppState, fields: ChatCompletionRequest, run: ChatRun) -> None:
        self.taken_up = run.taken_up
        self._state = state
        self._fields = fields
        self._run = run

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        progress = [_Progress() for _ in range(self._run.num_choices)]
        async with aclosing(self._run.events()) as events:
            async for event in events:
                progress[event.index].take(event)
        choices = [self._choice(index, one) for index, one in enumerate(progress)]
        return self._run.answer.object(KIND, choices, self._run.usage)

    def _choice(self, index: int, one: _Progress) -> dict[str, Any]:
        assert one.finish is not None
        return {
            "index": index,
            "message": one.message(),
            "logprobs": self._logprobs(one.logprobs),
            "finish_reason": one.finish.finish_reason,
            "stop_reason": one.finish.stop_reason,
        }

    async def chunks(self) -> Chunks:
        """The answer as a stream of objects: role, what happens, finish, and usage if asked for."""
        options, run = self._fields.stream_options, self._run
        with_usage = run.usage if options and options.continuous_usage_stats else None
        begun: set[int] = set()
        async with aclosing(run.events()) as events:
            async for event in events:
                if event.index not in begun:
                    begun.add(event.index)
                    role = {"role": "assistant", "content": ""}
                    yield run.answer.chunk(CHUNK_KIND, [_chunk(event.index, role)], with_usage)
                yield run.answer.chunk(CHUNK_KIND, [self._event_chunk(event)], with_usage)
        if options and options.include_usage:
            yield run.answer.chunk(CHUNK_KIND, [], run.usage)

    def _event_chunk(self, event: ChatEvent) -> dict[str, Any]:
        match event:
            case ContentDelta():
                return _chunk(event.index, {"content": event.text}, self._logprobs(event.logprobs))
            case ReasoningDelta():
                return _chunk(event.index, {"reasoning_content": event.text})
            case ToolCallDelta():
                return _chunk(event.index, {"tool_calls": [_call_delta(event)]})
            case ChatFinish():
                end = {"finish_reason": event.finish_reason, "stop_reason": event.stop_reason}
                return {**_chunk(event.index, {}), **end}

    def _logprobs(self, entries: list[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._state.tokenizer, entries) if self._fields.logprobs else None


def _call(event: ToolCallDelta) -> dict[str, Any]:
    """A call as it begins."""
    return {
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": event.arguments},
    }


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    """A call's beginning, or a piece of its arguments."""
    if event.id is None:
        return {"index": event.call, "function": {"arguments": event.arguments}}
    return {"index": event.call, **_call(event)}


def _chunk(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

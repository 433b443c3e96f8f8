"""``POST /v1/chat/completions``."""

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from engine.messages import TokenLogprob
from engine.sampling_params import SamplingParams, check_context_length
from server.openai.answers import (
    Answer,
    Chunks,
    Usage,
    admit,
    end_tokens,
    make_choices,
    respond_streamed,
    respond_whole,
)
from server.openai.body import read_body, request_body
from server.openai.errors import ApiError
from server.openai.generation import Choice, Delta, run_choices
from server.openai.logprobs import chat_logprobs
from server.openai.prompts import chat_prompt
from server.openai.protocol import ChatCompletionRequest
from server.openai.sampling import request_seed, sampling_params
from server.state import AppState, State

router = APIRouter()

KIND = "chat.completion"
CHUNK_KIND = "chat.completion.chunk"


@router.post("/v1/chat/completions", openapi_extra=request_body(ChatCompletionRequest))
async def create_chat_completion(request: Request, state: State) -> Response:
    """Answer a conversation, `n` times."""
    fields = await read_body(request, ChatCompletionRequest)
    engine = admit(state, fields)
    if fields.top_logprobs is not None and not fields.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
    prompt = await chat_prompt(
        fields.messages, fields.add_generation_prompt is not False, state.chat_template, state.tokenizer
    )
    params = _params(state, fields, len(prompt.token_ids), engine.max_model_len)
    answer = Answer.begin("chatcmpl", state.model_name)
    choices = make_choices(fields, answer, [prompt], [params], engine.vocab_size)
    chat = _Chat(state, fields, answer, len(prompt.token_ids), choices)
    if fields.stream:
        return await respond_streamed(request, chat.chunks())
    return await respond_whole(request, chat.whole())


def _params(
    state: AppState, fields: ChatCompletionRequest, prompt_tokens: int, max_model_len: int
) -> list[SamplingParams]:
    """Sampling parameters of the `n` choices; without a limit an answer may fill the context."""
    given = fields.max_completion_tokens or fields.max_tokens
    max_tokens = max(1, max_model_len - prompt_tokens) if given is None else given
    check_context_length(prompt_tokens, max_tokens, max_model_len, "messages")
    seed = request_seed(fields)
    return [
        sampling_params(
            fields,
            state.generation_defaults,
            end_tokens(state),
            max_tokens=max_tokens,
            choice=choice,
            seed=seed,
            logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
            prompt_logprobs=None,
        )
        for choice in range(fields.n or 1)
    ]


@dataclass(slots=True)
class _Progress:
    """One choice so far."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class _Chat:
    """One answer in the making."""

    def __init__(
        self,
        state: AppState,
        fields: ChatCompletionRequest,
        answer: Answer,
        prompt_tokens: int,
        choices: list[Choice],
    ) -> None:
        self._state = state
        self._fields = fields
        self._answer = answer
        self._choices = choices
        self._usage = Usage(prompt_tokens)

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        progress = [_Progress() for _ in self._choices]
        async with aclosing(run_choices(self._state, self._choices)) as deltas:
            async for delta in deltas:
                self._usage.count(delta, len(self._choices))
                one = progress[delta.index]
                one.text += delta.text
                one.logprobs += delta.logprobs
                one.finish_reason, one.stop_reason = delta.finish_reason, delta.stop_reason
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "logprobs": self._logprobs(one.logprobs),
                "finish_reason": one.finish_reason,
                "stop_reason": one.stop_reason,
            }
            for index, one in enumerate(progress)
        ]
        return self._answer.object(KIND, choices, self._usage)

    async def chunks(self) -> Chunks:
        """The answer as a stream of objects: role, text, finish, and usage if asked for."""
        options = self._fields.stream_options
        with_usage = self._usage if options and options.continuous_usage_stats else None
        begun: set[int] = set()
        async with aclosing(run_choices(self._state, self._choices)) as deltas:
            async for delta in deltas:
                self._usage.count(delta, len(self._choices))
                if delta.index not in begun:
                    begun.add(delta.index)
                    role = {"role": "assistant", "content": ""}
                    yield self._answer.object(CHUNK_KIND, [_chunk(delta.index, role)], with_usage)
                if delta.text or delta.logprobs:
                    choice = _chunk(delta.index, {"content": delta.text}, self._logprobs(delta.logprobs))
                    yield self._answer.object(CHUNK_KIND, [choice], with_usage)
                if delta.finish_reason is not None:
                    yield self._answer.object(CHUNK_KIND, [_last_chunk(delta)], with_usage)
        if options and options.include_usage:
            yield self._answer.object(CHUNK_KIND, [], self._usage)

    def _logprobs(self, entries: list[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._state.tokenizer, entries) if self._fields.logprobs else None


def _chunk(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _last_chunk(delta: Delta) -> dict[str, Any]:
    return {**_chunk(delta.index, {}), "finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}

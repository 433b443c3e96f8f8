"""``POST /v1/completions``."""

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

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
from server.openai.constraints import checked_constraint
from server.openai.errors import ApiError
from server.openai.generation import DECODER_CONTEXT, Choice, Delta, run_choices
from server.openai.logprobs import CompletionLogprobs, loop_logprobs
from server.openai.prompts import Prompt, completion_prompts
from server.openai.protocol import CompletionRequest
from server.openai.sampling import request_seed, sampling_params
from server.state import AppState, State

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
KIND = "text_completion"


@router.post("/v1/completions", openapi_extra=request_body(CompletionRequest))
async def create_completion(request: Request, state: State) -> Response:
    """Complete one or more prompts, `n` times each."""
    fields = await read_body(request, CompletionRequest)
    engine = admit(state, fields)
    if fields.best_of is not None and fields.best_of != (fields.n or 1):
        raise ApiError(400, "best_of is not supported; leave it out or make it equal to n.", param="best_of")
    if fields.max_tokens == 0 and not fields.echo:
        raise ApiError(400, "max_tokens 0 is only allowed with echo.", param="max_tokens")
    if fields.suffix and fields.echo:
        raise ApiError(400, "suffix and echo can't be combined.", param="suffix")
    prompts = await completion_prompts(fields, state.tokenizer, engine.vocab_size)
    grammar = await checked_constraint(state, fields)
    params = [_params(state, fields, prompt, engine.max_model_len, grammar) for prompt in prompts]
    answer = Answer.begin("cmpl", state.model_name)
    choices = make_choices(fields, answer, prompts, params, engine.vocab_size)
    completion = _Completion(state, fields, answer, prompts, choices)
    if fields.stream:
        return await respond_streamed(request, completion.chunks())
    return await respond_whole(request, completion.whole())


def _params(
    state: AppState, fields: CompletionRequest, prompt: Prompt, max_model_len: int, grammar: str | None
) -> list[SamplingParams]:
    """Sampling parameters of a prompt's `n` choices."""
    room = max_model_len - len(prompt.token_ids)
    max_tokens = fields.max_tokens
    if max_tokens is None:
        max_tokens = max(1, min(DEFAULT_MAX_TOKENS, room))
    check_context_length(len(prompt.token_ids), max_tokens, max_model_len, "prompt")
    seed = request_seed(fields)
    return [
        sampling_params(
            fields,
            state.generation_defaults,
            end_tokens(state),
            max_tokens=max_tokens,
            choice=choice,
            seed=seed,
            logprobs=fields.logprobs,
            prompt_logprobs=fields.logprobs if fields.echo else None,
            loop_logprobs=bool(fields.loop_logprobs),
            grammar=grammar,
        )
        for choice in range(fields.n or 1)
    ]


@dataclass(slots=True)
class _Progress:
    """One choice so far."""

    prompt: Prompt
    logprobs: CompletionLogprobs
    loop_logprobs: list[list[float]] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    started: bool = False


class _Completion:
    """One answer in the making."""

    def __init__(
        self,
        state: AppState,
        fields: CompletionRequest,
        answer: Answer,
        prompts: list[Prompt],
        choices: list[Choice],
    ) -> None:
        self._state = state
        self._fields = fields
        self._answer = answer
        self._choices = choices
        self._per_prompt = fields.n or 1
        self._usage = Usage(sum(len(prompt.token_ids) for prompt in prompts))
        self._progress = [
            self._begin(prompts[choice.index // self._per_prompt], choice.skip_special_tokens)
            for choice in choices
        ]

    def _begin(self, prompt: Prompt, skip_special_tokens: bool) -> _Progress:
        tokenizer = self._state.tokenizer
        decoder = tokenizer.stream_decoder(
            () if self._fields.echo else prompt.token_ids[-DECODER_CONTEXT:], skip_special_tokens
        )
        return _Progress(prompt, CompletionLogprobs(tokenizer, decoder))

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        async with aclosing(run_choices(self._state, self._choices)) as deltas:
            async for delta in deltas:
                self._take(delta)
        choices = [self._choice(index, one.text) for index, one in enumerate(self._progress)]
        return self._answer.object(KIND, choices, self._usage)

    async def chunks(self) -> Chunks:
        """The answer as a stream of objects."""
        options = self._fields.stream_options
        with_usage = self._usage if options and options.continuous_usage_stats else None
        async with aclosing(run_choices(self._state, self._choices)) as deltas:
            async for delta in deltas:
                text = self._take(delta)
                progress = self._progress[delta.index]
                if text or progress.logprobs.tokens or progress.loop_logprobs or delta.finish_reason:
                    yield self._answer.object(KIND, [self._choice(delta.index, text)], with_usage)
        if options and options.include_usage:
            yield self._answer.object(KIND, [], self._usage)

    def _take(self, delta: Delta) -> str:
        """Add a delta to its choice; returns the text it added, the echoed prompt included."""
        progress = self._progress[delta.index]
        text = delta.text
        if not progress.started:
            progress.started = True
            if self._fields.echo:
                text = progress.prompt.text + text
                for token, entry in zip(progress.prompt.token_ids, delta.prompt_logprobs or (), strict=False):
                    progress.logprobs.add(token, entry)
        for entry in delta.logprobs:
            progress.logprobs.add(entry.token_id, entry)
        progress.loop_logprobs += loop_logprobs(delta.loop_logprobs)
        progress.text += text
        progress.finish_reason, progress.stop_reason = delta.finish_reason, delta.stop_reason
        self._usage.count(delta, self._per_prompt)
        return text

    def _choice(self, index: int, text: str) -> dict[str, Any]:
        """A choice with this text, and what it got since the last call beside."""
        progress = self._progress[index]
        out: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": None if self._fields.logprobs is None else progress.logprobs.take(),
            "finish_reason": progress.finish_reason,
            "stop_reason": progress.stop_reason,
        }
        if self._fields.loop_logprobs:
            out["loop_logprobs"], progress.loop_logprobs = progress.loop_logprobs, []
        return out

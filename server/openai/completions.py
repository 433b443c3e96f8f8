"""``POST /v1/completions``."""

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from engine.messages import EngineReady
from server.openai.answers import Chunks, admit, respond_streamed, respond_whole
from server.openai.body import read_body, request_body
from server.openai.completion_run import CompletionRun
from server.openai.errors import ApiError
from server.openai.fim import Gap, fim_prompt
from server.openai.generation import DECODER_CONTEXT, Delta
from server.openai.logprobs import CompletionLogprobs, loop_logprobs, loop_tokens
from server.openai.prompts import Prompt, completion_prompts, split_prompts
from server.openai.protocol import CompletionRequest
from server.state import AppState, State

router = APIRouter()

KIND = "text_completion"


@router.post("/v1/completions", openapi_extra=request_body(CompletionRequest))
async def create_completion(request: Request, state: State) -> Response:
    """Complete one or more prompts, `n` times each."""
    fields = await read_body(request, CompletionRequest)
    engine = admit(state, fields)
    _check_combinations(fields, engine)
    prompts = await requested_prompts(fields, state, engine.vocab_size)
    run = await CompletionRun.begin(state, engine, fields, "cmpl", prompts)
    completion = _Completion(state, fields, run)
    if fields.stream:
        return await respond_streamed(request, completion.chunks(), run.taken_up)
    return await respond_whole(request, completion.whole())


async def requested_prompts(fields: CompletionRequest, state: AppState, vocab_size: int) -> list[Prompt]:
    """The prompts of a request, with the gap that a suffix leaves as one.

    Raises:
        ApiError, InvalidRequestError: they are at fault.
    """
    if fields.suffix:
        return [await _suffix_prompt(fields, fields.suffix, state)]
    return await completion_prompts(fields, state.limits, state.tokenizer, vocab_size)


def _check_combinations(fields: CompletionRequest, engine: EngineReady) -> None:
    if fields.best_of is not None and fields.best_of != (fields.n or 1):
        raise ApiError(400, "best_of is not supported; leave it out or make it equal to n.", param="best_of")
    if fields.max_tokens == 0 and not fields.echo:
        raise ApiError(400, "max_tokens 0 is only allowed with echo.", param="max_tokens")
    if fields.suffix and fields.echo:
        raise ApiError(400, "suffix and echo can't be combined.", param="suffix")
    most = fields.truncate_prompt_tokens
    if most is not None and (fields.suffix or most > engine.max_model_len):
        raise ApiError(
            400,
            "truncate_prompt_tokens can't be combined with suffix, and may be at most the model's "
            f"{engine.max_model_len} tokens.",
            param="truncate_prompt_tokens",
        )


async def _suffix_prompt(fields: CompletionRequest, suffix: str, state: AppState) -> Prompt:
    # At the start of a file nothing stands before the gap.
    given = [""] if fields.prompt == "" else split_prompts(fields.prompt, state.limits)
    if len(given) != 1 or not isinstance(given[0], str):
        raise ApiError(400, "suffix needs prompt to be one string.", param="suffix")
    return await fim_prompt(
        state.tokenizer,
        Gap(given[0], suffix),
        add_special_tokens=fields.add_special_tokens is not False,
        param="suffix",
    )


@dataclass(slots=True)
class _Progress:
    """One choice so far."""

    prompt: Prompt
    logprobs: CompletionLogprobs
    loop_logprobs: list[list[float]] = field(default_factory=list)
    loop_tokens: list[list[str]] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    started: bool = False


class _Completion:
    """One answer in the making."""

    def __init__(self, state: AppState, fields: CompletionRequest, run: CompletionRun) -> None:
        self._state = state
        self._fields = fields
        self._run = run
        self._progress = [
            self._begin(run.prompts[choice.index // run.per_prompt], choice.skip_special_tokens)
            for choice in run.choices
        ]

    def _begin(self, prompt: Prompt, skip_special_tokens: bool) -> _Progress:
        tokenizer = self._state.tokenizer
        decoder = tokenizer.stream_decoder(
            () if self._fields.echo else prompt.token_ids[-DECODER_CONTEXT:], skip_special_tokens
        )
        return _Progress(prompt, CompletionLogprobs(tokenizer, decoder))

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        async with aclosing(self._run.deltas()) as deltas:
            async for delta in deltas:
                self._take(delta)
        choices = [self._choice(index, one.text) for index, one in enumerate(self._progress)]
        return self._run.answer.object(KIND, choices, self._run.usage)

    async def chunks(self) -> Chunks:
        """The answer as a stream of objects."""
        options = self._fields.stream_options
        with_usage = self._run.usage if options and options.continuous_usage_stats else None
        async with aclosing(self._run.deltas()) as deltas:
            async for delta in deltas:
                text = self._take(delta)
                progress = self._progress[delta.index]
                if text or progress.logprobs.tokens or progress.loop_logprobs or delta.finish_reason:
                    yield self._run.answer.chunk(KIND, [self._choice(delta.index, text)], with_usage)
        if options and options.include_usage:
            yield self._run.answer.chunk(KIND, [], self._run.usage)

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
        progress.loop_tokens += loop_tokens(self._state.tokenizer, delta.loop_tokens)
        progress.text += text
        progress.finish_reason, progress.stop_reason = delta.finish_reason, delta.stop_reason
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
            out["loop_tokens"], progress.loop_tokens = progress.loop_tokens, []
        return out

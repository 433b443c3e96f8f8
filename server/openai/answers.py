"""What the two completion endpoints share: admission, choices, usage, answering whole or streamed."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.responses import JSONResponse

import engine.messages as messages
from engine.log_format import current_request_id
from engine.messages import EngineReady
from engine.sampling_params import SamplingParams, check_num_loops, check_sampling_params
from server.openai.disconnect import unless_disconnected
from server.openai.errors import ApiError
from server.openai.generation import Choice, Delta
from server.openai.models import check_model
from server.openai.prompts import Prompt
from server.openai.protocol import GenerationFields, StreamOptions
from server.openai.sse import DONE, EventStream, encode, event
from server.state import AppState, get_state

Chunks = AsyncGenerator[dict[str, Any] | bytes, None]
"""Objects of a stream; bytes are a whole event already, as `Answer.chunk` makes them."""


EVENT_END = b"}\n\n"
NULL_USAGE_END = b',"usage":null}\n\n'


@dataclass(slots=True)
class Usage:
    """Token counts of one request.

    Attributes:
        loops: how many loops the engine runs for it; 0 until the engine has said so.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    cached: dict[int, int] = field(default_factory=dict)
    loops: int = 0

    def count(self, delta: Delta, choices_per_prompt: int) -> None:
        """Add a delta; a prompt's cached tokens are counted once, from its first choice."""
        self.completion_tokens += len(delta.token_ids)
        self.loops = delta.num_loops
        if delta.index % choices_per_prompt == 0:
            self.cached[delta.index] = delta.cached_tokens

    def as_object(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached.values())},
        }
        return {**out, "loops": self.loops} if self.loops else out


@dataclass(frozen=True, slots=True)
class Answer:
    """What is the same in every object of one answer.

    Attributes:
        null_usage: chunks without usage say so; OpenAI does that where a last chunk with usage was asked for.
    """

    id: str
    created: int
    model: str
    null_usage: bool = False
    _heads: dict[str, bytes] = field(default_factory=dict, compare=False)

    @classmethod
    def begin(cls, prefix: str, model: str, stream_options: StreamOptions | None = None) -> "Answer":
        """A fresh id; a prefix that brings its own ``_`` (``msg_``) gets no ``-``."""
        join = "" if prefix.endswith("_") else "-"
        null_usage = stream_options is not None and bool(stream_options.include_usage)
        return cls(f"{prefix}{join}{uuid.uuid4().hex}", int(time.time()), model, null_usage)

    def object(self, kind: str, choices: list[dict[str, Any]], usage: Usage | None = None) -> dict[str, Any]:
        """A whole answer."""
        out: dict[str, Any] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return out if usage is None else {**out, "usage": usage.as_object()}

    def chunk(self, kind: str, choices: list[dict[str, Any]], usage: Usage | None = None) -> bytes:
        """One event of a streamed answer; what is the same in all of them is encoded once."""
        head = self._heads.get(kind)
        if head is None:
            constant = event(self.object(kind, []))
            head = self._heads[kind] = constant[: constant.rindex(b"[]")]
        if usage is not None:
            return head + encode(choices) + b',"usage":' + encode(usage.as_object()) + EVENT_END
        return head + encode(choices) + (NULL_USAGE_END if self.null_usage else EVENT_END)


def admit(state: AppState, fields: GenerationFields) -> EngineReady:
    """Checks that need no prompt yet; returns what the engine says of itself.

    Raises:
        UnavailableError: not now.
        ApiError: another model's name (404), options that don't go together (400), or too much of one key (429).
        InvalidRequestError: more loops than the model has.
    """
    check_model(state, fields.model)
    if fields.stream_options is not None and not fields.stream:
        raise ApiError(400, "stream_options needs stream to be true.", param="stream_options")
    state.client.admit()
    state.key_limits.check(state.account)
    assert state.client.info is not None
    check_num_loops(fields.loops, state.client.info.num_loops)
    return state.client.info


def end_tokens(state: AppState) -> tuple[int, ...]:
    """Ids that end an answer: the model's, and the tokenizer's own, which some configurations leave out."""
    own = state.tokenizer.eos_token_id
    return tuple(dict.fromkeys([*state.model_config.eos_token_ids, *([] if own is None else [own])]))


def make_choices(
    state: AppState,
    fields: GenerationFields,
    answer: Answer,
    prompts: list[Prompt],
    params: list[list[SamplingParams]],
    vocab: int,
    shown_tokens: frozenset[int] = frozenset(),
) -> list[Choice]:
    """The engine requests of one answer: for each prompt, one choice per entry of its `params`."""
    most = state.limits.max_request_sequences
    count = sum(len(group) for group in params)
    if count > most:
        raise ApiError(400, f"prompts times n is {count}; at most {most} are allowed.", param="n")
    choices: list[Choice] = []
    for prompt, group in zip(prompts, params, strict=True):
        for one in group:
            check_sampling_params(one, vocab)
            request = messages.Request(
                request_id=f"{answer.id}-{len(choices)}",
                prompt_token_ids=prompt.token_ids,
                params=one,
                priority=fields.priority or 0,
                cache_salt=fields.cache_salt or "",
                num_loops=fields.loops,
                tenant=state.tenant,
                label=current_request_id.get() or "",
            )
            choices.append(
                Choice(
                    len(choices),
                    request,
                    fields.stop,
                    include_stop=bool(fields.include_stop_str_in_output),
                    skip_special_tokens=fields.skip_special_tokens is not False,
                    shown_tokens=shown_tokens,
                )
            )
    return choices


async def respond_streamed(
    request: Request, chunks: Chunks, taken_up: asyncio.Future[None], *, end: bytes = DONE
) -> Response:
    """Answer with events and then `end`; errors before the first one get their own status."""
    return await respond_events(
        request, _events(chunks, end), taken_up, lambda error: event(error.body()) + end
    )


async def respond_events(
    request: Request,
    events: AsyncGenerator[bytes, None],
    taken_up: asyncio.Future[None],
    failure: Callable[[ApiError], bytes],
) -> Response:
    """The same for events that are already bytes; `failure` writes the end of a stream that can't go on."""
    keep_alive = get_state(request).settings.sse_keep_alive
    opening = EventStream.open(events, keep_alive=keep_alive, taken_up=taken_up, failure=failure)
    return await unless_disconnected(request.receive, opening)


async def respond_whole(request: Request, body: Coroutine[Any, Any, dict[str, Any]]) -> Response:
    """Answer with one object, or abort when the client goes away first."""
    return JSONResponse(await unless_disconnected(request.receive, body))


async def _events(chunks: Chunks, end: bytes) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk if type(chunk) is bytes else event(chunk)
    if end:
        yield end

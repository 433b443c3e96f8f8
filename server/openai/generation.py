"""Runs the choices of one request against the engine and merges what comes."""

import asyncio
from collections.abc import AsyncGenerator, Container
from contextlib import aclosing
from dataclasses import dataclass, field

import engine.messages as messages
from engine.errors import is_isolable
from engine.messages import RequestOutput, TokenLogprob
from server.detokenize import TextAssembler
from server.engine_streams import EngineStream
from server.openai.errors import engine_error
from server.request_metrics import RequestMetrics
from server.request_notes import RequestNotes, current_notes
from server.state import AppState

DECODER_CONTEXT = 64
"""Prompt tokens that a decoder looks at; all of a long prompt, for each of many choices, would hold up the loop."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence to generate.

    Attributes:
        index: place among the request's choices: prompt number · n + choice number.
        stops: stop strings.
        shown_tokens: special tokens that are text even if special tokens are skipped.
    """

    index: int
    request: messages.Request
    stops: list[str]
    include_stop: bool
    skip_special_tokens: bool
    shown_tokens: frozenset[int] = frozenset()


@dataclass(slots=True)
class Delta:
    """What one engine output meant for one choice.

    Attributes:
        text: final text since the last delta; may lag behind `token_ids` while a stop string is possible.
        finish_reason: "stop" or "length" on the last delta.
        stop_reason: the stop string or token id that ended it.
        num_loops, loop_logprobs, loop_tokens: as in `RequestOutput`.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    num_loops: int = 0
    loop_logprobs: list[list[float]] = field(default_factory=list)
    loop_tokens: list[list[int]] = field(default_factory=list)


async def run_choices(
    state: AppState,
    choices: list[Choice],
    ended: Container[int] = (),
    taken_up: asyncio.Future[None] | None = None,
) -> AsyncGenerator[Delta, None]:
    """Deltas of all choices as they come; closing the generator aborts what still runs.

    Args:
        ended: indices of choices that the caller needs no more of; it may add one whenever it has got a delta.
        taken_up: see `EngineClient.submit`.

    Raises:
        UnavailableError, EngineDeadError, InvalidRequestError, ApiError: the first one that any choice meets.
    """
    with state.key_limits.hold(state.account, [choice.request for choice in choices]) as hold:
        async with aclosing(_run_all(state, choices, ended, taken_up)) as deltas:
            async for delta in deltas:
                hold.generated += len(delta.token_ids)
                yield delta


async def _run_all(
    state: AppState, choices: list[Choice], ended: Container[int], taken_up: asyncio.Future[None] | None
) -> AsyncGenerator[Delta, None]:
    """The same, whatever the key may use."""
    streams, notes = state.client.submit([choice.request for choice in choices], taken_up), current_notes()
    if notes is not None:
        _note_submitted(notes, choices, streams)
    running = [_run_choice(state, *pair, ended, notes) for pair in zip(choices, streams, strict=True)]
    try:
        # One has nothing to merge: a task and a queue between would cost each token another turn of the event loop.
        async with aclosing(running[0] if len(running) == 1 else _merged(running, ended)) as deltas:
            async for delta in deltas:
                yield delta
                if len(running) == 1 and delta.index in ended:
                    break
    finally:
        for stream in streams:
            stream.close()
        if notes is not None:
            notes.begun = min((stream.begun for stream in streams if stream.begun is not None), default=None)


def _note_submitted(notes: RequestNotes, choices: list[Choice], streams: list[EngineStream]) -> None:
    notes.answer = choices[0].request.request_id.rpartition("-")[0]
    notes.prompt_tokens = sum(stream.prompt_tokens for stream in streams)
    notes.submitted = streams[0].started


async def _merged(
    running: list[AsyncGenerator[Delta, None]], ended: Container[int]
) -> AsyncGenerator[Delta, None]:
    """Deltas of several choices, generator `i` being choice `i`."""
    queue: asyncio.Queue[Delta | BaseException] = asyncio.Queue()
    tasks = {i: asyncio.create_task(_pump(deltas, queue)) for i, deltas in enumerate(running)}
    unfinished = len(tasks)
    try:
        while unfinished:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item.index in ended:  # came while its choice was being stopped
                continue
            yield item
            if item.finish_reason is not None or item.index in ended:
                tasks[item.index].cancel()
                unfinished -= 1
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _pump(running: AsyncGenerator[Delta, None], queue: asyncio.Queue[Delta | BaseException]) -> None:
    try:
        async with aclosing(running) as deltas:
            async for delta in deltas:
                queue.put_nowait(delta)
    except BaseException as error:
        if not is_isolable(error):
            raise
        queue.put_nowait(error)


async def _run_choice(
    state: AppState, choice: Choice, stream: EngineStream, ended: Container[int], notes: RequestNotes | None
) -> AsyncGenerator[Delta, None]:
    prompt, params = choice.request.prompt_token_ids, choice.request.params
    decoder = state.tokenizer.stream_decoder(
        prompt[-DECODER_CONTEXT:], choice.skip_special_tokens, choice.shown_tokens
    )
    assembler = TextAssembler(
        decoder, choice.stops, include_stop=choice.include_stop, min_tokens=params.min_tokens
    )
    with state.metrics.request(None if notes is None else notes.finish_reasons.append) as metrics:
        metrics.on_start(len(prompt))
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    if notes is not None:
                        notes.on_output(
                            choice.index, len(output.token_ids), output.cached_tokens, output.num_loops
                        )
                    delta = _delta(choice, assembler, output, metrics)
                    yield delta
                    if delta.finish_reason is not None:
                        return
        except BaseException as error:
            if is_isolable(error):
                stream.group.failed = True
            elif stream.group.failed and choice.index not in ended:
                metrics.on_finish("abort")  # given up for another of its request's: nobody has left
            raise
        finally:
            if choice.index in ended:  # complete for its reader: not an abort
                metrics.on_finish("stop")


def _delta(choice: Choice, assembler: TextAssembler, output: RequestOutput, metrics: RequestMetrics) -> Delta:
    """Turn one engine output into text, and decide whether a stop string ends the choice here."""
    if output.finish_reason == "error":
        raise engine_error(output)
    metrics.on_token(len(output.token_ids), output.cached_tokens)
    delta = Delta(
        choice.index,
        token_ids=output.token_ids,
        logprobs=output.logprobs or [],
        prompt_logprobs=output.prompt_logprobs,
        finish_reason=output.finish_reason,
        stop_reason=output.stop_token_id,
        cached_tokens=output.cached_tokens,
        num_loops=output.num_loops,
        loop_logprobs=output.loop_logprobs or [],
        loop_tokens=output.loop_tokens or [],
    )
    for token in output.token_ids:
        if token != output.stop_token_id or choice.include_stop:
            delta.text += assembler.push(token)
    if output.finish_reason is not None:
        delta.text += assembler.finish()
    if assembler.stopped_by is not None:
        delta.finish_reason, delta.stop_reason = "stop", assembler.stopped_by
    if delta.finish_reason is not None:
        metrics.on_finish("stop" if delta.finish_reason == "stop" else "length")
    return delta

"""Clients that go away at random points. Nothing of them may stay."""

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Any

from tools.attack.canary import token_prompt
from tools.attack.case import COMPLETIONS
from tools.attack.oracle import Kind, Problem
from tools.attack.results import Part, RowResult, note
from tools.attack.servers import Keeper
from tools.attack.surroundings import surroundings
from tools.attack.target import AttackError, Target
from tools.attack.wire import connect, read_chunk, read_head, reset

AT_ONCE = 24
PATIENCE = 60.0
OVERLOADED = (429, 503)
POINTS = {
    "head": "within the head",
    "body": "within the body",
    "sent": "right after the request: in the queue or in prefill",
    "later": "up to 0.2 s after the request, without reading",
    "started": "after the first bytes of the answer",
    "tokens": "between tokens",
    "last": "after the last token, before [DONE]",
    "fin": "half-close after the request, gone after the first bytes",
}
"""When the client leaves. Points that need a stream become `later` for a whole answer."""
NEED_STREAM = ("started", "tokens", "last")


class Refused(Exception):  # noqa: N818 - no error: the server said that it is busy
    """The server had too much to do."""


async def run_disconnects(
    keeper: Keeper, part: Part, *, count: int = 10_000, seconds: float = float("inf")
) -> None:
    """Connect, ask, leave, so many times; then everything has to be as before."""
    rows = {point: RowResult(point, text) for point, text in POINTS.items()}
    part.rows = list(rows.values())
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            if time.monotonic() > until:
                part.cut = "its time was over"
                return
            await _one(keeper, part, rows, number)

    async with surroundings(keeper, part):
        until = time.monotonic() + seconds
        workers = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()


async def _one(keeper: Keeper, part: Part, rows: dict[str, RowResult], number: int) -> None:
    chosen = random.Random(f"{part.seed}:{number}")
    point, stream = chosen.choice(list(POINTS)), chosen.random() < 0.6
    if point in NEED_STREAM and not stream:
        point = "later"
    problems: list[Problem] = []
    try:
        async with asyncio.timeout(PATIENCE):
            await _leave(keeper.target, chosen, number, point, stream)
    except Refused:
        part.overloads += 1
        await asyncio.sleep(0.2)
    except TimeoutError:
        problems.append(Problem(Kind.HANG, f"after {PATIENCE:.0f} s"))
    except (OSError, EOFError, ValueError) as error:
        problems.append(Problem(Kind.DROPPED, f"{type(error).__name__} {error}"))
    except AttackError as error:
        problems.append(Problem(Kind.SERVER_ERROR, str(error)))
    if problems:
        note(rows[point], f"{number}: {problems[0]}")
        await keeper.check()
    part.count(rows[point], point, problems)


def _request(target: Target, chosen: random.Random, number: int, stream: bool) -> tuple[bytes, int, int]:
    """A request, the length of its head, and how many tokens it asks for."""
    # Some share a prefix, so that cached blocks have several owners when one leaves.
    shared = token_prompt(f"shared {number % 5}", 64, target.vocab_size) if chosen.random() < 0.5 else []
    length = chosen.choice([8, 100, 400])
    tokens = chosen.choice([8, 40, 120])
    fields: dict[str, Any] = {
        "model": target.model,
        "prompt": shared + token_prompt(number, length, target.vocab_size),
        "max_tokens": tokens,
        "stream": stream,
        "ignore_eos": True,
        "n": chosen.choice([1, 1, 1, 3]),
    }
    if chosen.random() < 0.2:
        fields["logprobs"] = 3
    content = json.dumps(fields).encode()
    request = target.post(COMPLETIONS, content)
    return request, len(request) - len(content), tokens


async def _leave(target: Target, chosen: random.Random, number: int, point: str, stream: bool) -> None:
    request, head_length, tokens = _request(target, chosen, number, stream)
    reader, writer = await connect(target.host, target.port)
    try:
        if point == "head":
            writer.write(request[: chosen.randrange(head_length)])
        elif point == "body":
            writer.write(request[: chosen.randrange(head_length, len(request))])
        else:
            writer.write(request)
        await writer.drain()
        await _stay(chosen, point, tokens, stream, reader, writer)
    finally:
        if chosen.random() < 0.5:
            reset(writer)
        else:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _stay(
    chosen: random.Random,
    point: str,
    tokens: int,
    stream: bool,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Do what the client still does before it goes."""
    if point == "later":
        await asyncio.sleep(chosen.random() * 0.2)
    elif point == "fin":
        writer.write_eof()
        # It may be answered or dropped; both are an end.
        with suppress(EOFError, OSError, ValueError):
            await read_head(reader)
    elif point in NEED_STREAM:
        answer = await read_head(reader)
        if answer.status in OVERLOADED and "retry-after" in answer.headers:
            raise Refused
        if answer.status != 200:
            raise AttackError(f"status {answer.status}")
        if point == "tokens":
            for _ in range(chosen.randint(1, max(1, tokens // 2))):
                if not await read_chunk(reader):
                    return
        elif point == "last":
            await _until_finish(reader)


async def _until_finish(reader: asyncio.StreamReader) -> None:
    while chunk := await read_chunk(reader):
        if b'"finish_reason":"' in chunk.replace(b" ", b""):
            return

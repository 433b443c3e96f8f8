"""Whether a request's answer depends on who else is there, over HTTP.

Each prompt is completed alone on a quiet server, which is the truth. Then again under each condition, and compared:
text and tokens, and logprobs to the last digit.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from tools.attack.canary import Generated, generate, greedy, token_prompt
from tools.attack.oracle import Kind, Problem
from tools.attack.results import Part, RowResult, note
from tools.attack.servers import Keeper
from tools.attack.surroundings import surroundings
from tools.attack.target import AttackError, Target

AT_ONCE = 8
COMPANIONS = 3
PREFIXES = 5
PREFIX_TOKENS = 160
TOKENS = 32

Ask = Callable[[int], Awaitable[Generated | None]]


class Prompts:
    """The prompts of a run and the requests for them. Half begin with one of a few long prefixes."""

    def __init__(self, target: Target, seed: int, count: int) -> None:
        self._target = target
        self._seed = seed
        self.count = count

    def fields(self, number: int, *, sampled: bool) -> dict[str, Any]:
        vocab = self._target.vocab_size
        prefix = token_prompt(f"{self._seed} prefix {number % PREFIXES}", PREFIX_TOKENS, vocab)
        own = token_prompt(f"{self._seed} prompt {number}", 8 + number * 13 % 120, vocab)
        fields = greedy([*(prefix if number % 2 else []), *own], TOKENS)
        return {**fields, "temperature": 0.8, "top_p": 0.95, "seed": number} if sampled else fields

    def asker(self, *, stream: bool, sampled: bool) -> Ask:
        return lambda number: generate(self._target, self.fields(number, sampled=sampled), stream=stream)


async def run_exact(keeper: Keeper, part: Part, *, count: int = 200, seconds: float = float("inf")) -> None:
    """Compare `count` prompts under every condition; a row's `passed` are answers identical in text and tokens."""
    prompts = Prompts(keeper.target, part.seed, count)
    until = time.monotonic() + seconds
    async with surroundings(keeper, part, canaries=False):
        for sampled in (False, True):
            what = "seeded" if sampled else "greedy"
            whole, streamed = (prompts.asker(stream=stream, sampled=sampled) for stream in (False, True))
            truth = await _alone(whole, count, until)
            await _compare(part, f"{what}, alone again (warm)", truth, _alone(whole, count, until))
            await _compare(part, f"{what}, alone, streamed", truth, _alone(streamed, count, until))
            for name, ask in (("whole", whole), ("streamed", streamed)):
                crowd = _crowd(keeper.target, ask, count, f"{part.seed} {what} {name}", until)
                await _compare(part, f"{what}, in a crowd, {name}", truth, crowd)


async def _alone(ask: Ask, count: int, until: float) -> dict[int, Generated | str]:
    return {number: await _asked(ask, number) for number in range(count) if time.monotonic() < until}


async def _crowd(target: Target, ask: Ask, count: int, seed: str, until: float) -> dict[int, Generated | str]:
    """All prompts in a random order, some at a time, beside companions of random lengths."""
    chosen = random.Random(seed)
    order = chosen.sample(range(count), count)
    found: dict[int, Generated | str] = {}
    left = iter(order)

    async def work() -> None:
        for number in left:
            if time.monotonic() > until:
                return
            found[number] = await _asked(ask, number)

    companions = [asyncio.create_task(_accompany(target, f"{seed} {number}")) for number in range(COMPANIONS)]
    try:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    finally:
        for companion in companions:
            companion.cancel()
        await asyncio.gather(*companions, return_exceptions=True)
    return found


async def _accompany(target: Target, seed: str) -> None:
    chosen = random.Random(seed)
    for number in range(1_000_000):
        length, tokens = chosen.choice([3, 50, 300, 900]), chosen.choice([1, 16, 64])
        fields = {
            **greedy(token_prompt(f"{seed} {number}", length, target.vocab_size), tokens),
            "temperature": 1,
        }
        with suppress(AttackError):
            await generate(target, fields, stream=bool(number % 2))


async def _asked(ask: Ask, number: int) -> Generated | str:
    for _ in range(20):
        try:
            found = await ask(number)
        except AttackError as error:
            return str(error)
        if found is not None:
            return found
        await asyncio.sleep(0.5)
    return "always too busy"


async def _compare(
    part: Part,
    name: str,
    truth: dict[int, Generated | str],
    asking: Awaitable[dict[int, Generated | str]],
) -> None:
    row = RowResult(name, "same logprobs: ")
    part.rows.append(row)
    same_logprobs = known = 0
    for number, found in sorted((await asking).items()):
        expected = truth[number]
        problems = []
        if isinstance(found, str) or isinstance(expected, str):
            problems.append(Problem(Kind.MALFORMED, str(found if isinstance(found, str) else expected)[:200]))
        else:
            known += bool(expected.logprobs)
            same_logprobs += bool(expected.logprobs) and found.logprobs == expected.logprobs
            if not found.same_tokens(expected):
                problems.append(Problem(Kind.WRONG, f"prompt {number} got another answer"))
        if problems:
            note(row, str(problems[0]))
        part.count(row, "200", problems)
    row.what = f"{same_logprobs:,} of {known:,}" if known else "not known"
    if row.cases < len(truth) or not truth:
        part.cut = "its time was over"

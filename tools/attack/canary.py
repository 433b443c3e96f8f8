"""Honest clients beside the attack: greedy streams that must get what they got on the quiet server."""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.attack.answers import MalformedError, choice_text, choices_of
from tools.attack.case import COMPLETIONS
from tools.attack.oracle import overloaded
from tools.attack.target import AttackError, Target, whole_answer

PROMPTS = 4
PROMPT_TOKENS = 24
TOKENS = 48
STREAMS = 2
SECONDS = 60.0
LEAST_ID, MOST_IDS = 300, 4000


@dataclass(frozen=True, slots=True)
class Generated:
    """What a client sees of an answer.

    Attributes:
        tokens: as the server names them, if it does.
        logprobs: of the tokens.
    """

    text: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float | None, ...] = ()

    def same_tokens(self, other: "Generated") -> bool:
        return (self.text, self.tokens) == (other.text, other.tokens)


@dataclass(slots=True)
class CanaryCount:
    """How the canaries fared.

    Attributes:
        identical: same text and tokens as on the quiet server.
        same_logprobs: of these, with the same logprobs to the last digit.
        refused: told to come back later.
        lost: no whole answer.
    """

    identical: int = 0
    same_logprobs: int = 0
    different: int = 0
    refused: int = 0
    lost: int = 0
    notes: list[str] = field(default_factory=list)


def token_prompt(seed: object, length: int, vocab_size: int | None) -> list[int]:
    """Random ids that every vocabulary has, none of them special."""
    chosen = random.Random(str(seed))
    top = min(vocab_size or MOST_IDS, MOST_IDS)
    return [chosen.randrange(min(LEAST_ID, top // 2), top) for _ in range(length)]


def greedy(prompt: list[int], max_tokens: int) -> dict[str, Any]:
    """Fields of a greedy completion of just so many tokens."""
    return {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": 1, "ignore_eos": True}


async def generate(
    target: Target, fields: Mapping[str, Any], *, stream: bool, seconds: float = SECONDS
) -> Generated | None:
    """Complete a prompt; None if the server has too much to do.

    Raises:
        AttackError: no whole good answer; the text says what came instead.
    """
    content = json.dumps({"model": target.model, **fields, "stream": stream}).encode()
    done = await target.ask(target.post(COMPLETIONS, content), seconds)
    if overloaded(done):
        return None
    answer = whole_answer(done)
    if answer is None or answer.status != 200:
        what = f"{answer.status} {answer.body[:200]!r}" if answer else str(done.outcome)
        raise AttackError(f"a plain completion got {what}")
    try:
        return _read(choices_of(answer, COMPLETIONS))
    except MalformedError as error:
        raise AttackError(f"a plain completion got a malformed answer: {error}") from None


def _read(choices: list[dict[str, Any]]) -> Generated:
    tokens: list[str] = []
    logprobs: list[float | None] = []
    for choice in choices:
        found = choice.get("logprobs") or {}
        if isinstance(found.get("tokens"), list):
            tokens += found["tokens"]
            logprobs += found.get("token_logprobs") or []
        for entry in found.get("content") or ():
            tokens.append(str(entry.get("id", entry.get("token"))))
            logprobs.append(entry.get("logprob"))
    return Generated("".join(map(choice_text, choices)), tuple(tokens), tuple(logprobs))


@dataclass(slots=True)
class Canaries:
    """Streams that run all the time, one after another on each of a few connections."""

    target: Target
    expected: list[Generated]
    count: CanaryCount = field(default_factory=CanaryCount)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def measured(cls, target: Target) -> "Canaries":
        """Take the measure on a quiet server.

        Raises:
            AttackError: it doesn't serve plain completions.
        """
        expected = []
        for number in range(PROMPTS):
            found = await generate(target, cls._fields(target, number), stream=True)
            if found is None:
                raise AttackError("the quiet server says that it is overloaded")
            expected.append(found)
        return cls(target, expected)

    @staticmethod
    def _fields(target: Target, number: int) -> dict[str, Any]:
        return greedy(token_prompt(f"canary {number}", PROMPT_TOKENS, target.vocab_size), TOKENS)

    async def fly(self) -> None:
        """Stream until told to stop."""
        async with asyncio.TaskGroup() as group:
            for first in range(STREAMS):
                group.create_task(self._stream(first))

    async def _stream(self, number: int) -> None:
        while not self.stopping.is_set():
            await self._once(number % PROMPTS)
            number += 1

    async def _once(self, number: int) -> None:
        count = self.count
        try:
            found = await generate(self.target, self._fields(self.target, number), stream=True)
        except AttackError as error:
            count.lost += 1
            count.notes.append(str(error)[:200])
            await asyncio.sleep(1.0)
            return
        if found is None:
            count.refused += 1
            await asyncio.sleep(0.5)
        elif found.same_tokens(self.expected[number]):
            count.identical += 1
            count.same_logprobs += found.logprobs == self.expected[number].logprobs
        else:
            count.different += 1
            count.notes.append(f"prompt {number}: {found.text[:60]!r}")

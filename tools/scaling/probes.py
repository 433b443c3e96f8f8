"""What is asked of any front of several replicas, over HTTP. Which replica answered is for the caller to tell."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

CONVERSATIONS, TURNS, AT_ONCE = 16, 4, 8
STREAM_TOKENS = 64

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stream:
    """When the parts of a streamed answer came, in seconds after the request was sent."""

    status: int
    arrivals: list[float]
    text: bytes
    complete: bool

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]

    def described(self) -> str:
        """For a page."""
        gaps = [1e3 * gap for gap in self.gaps]
        spread = self.arrivals[-1] - self.arrivals[0]
        return (
            f"{len(self.arrivals)} parts over {1e3 * spread:.0f} ms, the first after {1e3 * self.arrivals[0]:.0f} ms; "
            f"between parts median {median(gaps):.1f} ms, largest {max(gaps):.1f} ms"
        )


@dataclass(frozen=True, slots=True)
class Affinity:
    """Conversations of several turns, by turns.

    Attributes:
        replicas_per_conversation: how many conversations met so many replicas.
        conversations_per_replica: by the replica that the first turn met.
        prompt_tokens: of all turns but the first.
        cached_tokens: of those, from the prefix cache.
    """

    replicas_per_conversation: dict[int, int]
    conversations_per_replica: list[int]
    prompt_tokens: int
    cached_tokens: int

    @property
    def sticks(self) -> bool:
        return set(self.replicas_per_conversation) == {1}

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.prompt_tokens


class Front:
    """The address under which several replicas answer."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=30)

    async def post(self, body: Body, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """One completion."""
        return await self.client.post("/v1/completions", json=body, headers=dict(headers or {}))

    async def is_ready(self) -> bool:
        try:
            return (await self.client.get("/ready", timeout=2)).status_code == 200
        except httpx.HTTPError:
            return False

    async def stream(self, body: Body, headers: Mapping[str, str] | None = None) -> Stream:
        """One streamed completion to its end, or to where its connection ends."""
        sent, arrivals, parts, status = time.perf_counter(), [], [], 0
        try:
            async with self.client.stream(
                "POST", "/v1/completions", json={**body, "stream": True}, headers=dict(headers or {})
            ) as answer:
                status = answer.status_code
                async for part in answer.aiter_raw():
                    arrivals.append(time.perf_counter() - sent)
                    parts.append(part)
        except httpx.HTTPError:
            return Stream(status, arrivals, b"".join(parts), complete=False)
        text = b"".join(parts)
        return Stream(status, arrivals, text, complete=text.rstrip().endswith(b"data: [DONE]"))

    async def leave_stream(self, body: Body, events: int, headers: Mapping[str, str] | None = None) -> None:
        """Begin a streamed completion and go away after so many events."""
        async with self.client.stream(
            "POST", "/v1/completions", json={**body, "stream": True}, headers=dict(headers or {})
        ) as answer:
            seen = 0
            async for line in answer.aiter_lines():
                seen += line.startswith("data:")
                if seen >= events:
                    return


def prompt_of(conversation: int, turn: int) -> str:
    """The text so far: every turn begins with all earlier ones, every conversation differs from the start."""
    text = f"# Module {conversation * 7919 % 1009}: a parser for format number {conversation}.\n"
    for number in range(turn + 1):
        text += "".join(
            f"def step_{conversation}_{number}_{line}(value):\n    return value + {line * conversation}\n"
            for line in range(6)
        )
    return text


def completion(prompt: str, tokens: int = 4, model: str | None = "demo", **more: Any) -> Body:
    """The body of a request."""
    named = {} if model is None else {"model": model}
    return {**named, "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}


async def converse(
    front: Front,
    replica_of: Callable[[httpx.Response], str],
    told: Callable[[int, int], tuple[Mapping[str, str], Body]] = lambda conversation, turn: ({}, {}),
    model: str | None = "demo",
) -> Affinity:
    """All conversations' first turns, some at once, then all second turns, and so on.

    Args:
        told: headers and fields of the body that say where a turn belongs.
    """
    room = asyncio.Semaphore(AT_ONCE)
    met: dict[int, list[str]] = {}
    usages: list[Body] = []

    async def ask(conversation: int, turn: int) -> None:
        headers, fields = told(conversation, turn)
        body = {**completion(prompt_of(conversation, turn), model=model), **fields}
        async with room:
            answer = await front.post(body, headers)
        answer.raise_for_status()
        met.setdefault(conversation, []).append(replica_of(answer))
        if turn > 0:
            usages.append(answer.json()["usage"])

    for turn in range(TURNS):
        await asyncio.gather(*[ask(conversation, turn) for conversation in range(CONVERSATIONS)])
    return Affinity(
        dict(sorted(Counter(len(set(replicas)) for replicas in met.values()).items())),
        sorted(Counter(replicas[0] for replicas in met.values()).values(), reverse=True),
        sum(usage["prompt_tokens"] for usage in usages),
        sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for usage in usages),
    )


def described(each: Affinity) -> str:
    """For a page."""
    met = ", ".join(f"{count} met {replicas}" for replicas, count in each.replicas_per_conversation.items())
    shared_out = " : ".join(map(str, each.conversations_per_replica))
    return (
        f"{CONVERSATIONS} conversations of {TURNS} turns, {AT_ONCE} at once, by number of replicas: {met}; shared out "
        f"{shared_out}; "
        f"{100 * each.cached_share:.0f} % of later turns' prompt tokens from the cache"
    )


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, poll: float = 0.1) -> float | None:
    """Seconds until an async condition holds; None if it doesn't in time."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        if await condition():
            return time.perf_counter() - begun
        await asyncio.sleep(poll)
    return None

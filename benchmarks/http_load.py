"""A client that streams completions from an OpenAI server and times them.

Time is taken when an event arrives; tokens are those of the server's own `usage`, because an event may carry several
tokens or, where text is held back, none.
"""

import asyncio
import random
import string
import time
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from benchmarks.errors import BenchmarkError

FIRST_TOKEN_ID = 100
"""Lower ids are special tokens or single bytes in many vocabularies."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load.

    Attributes:
        url: without a path (`http://127.0.0.1:8000`) or ending in `/v1`.
        model: None takes the first that the server lists.
        text_prompts: send random letters where a server takes no token ids.
    """

    name: str
    url: str
    model: str | None = None
    api_key: str | None = None
    text_prompts: bool = False

    def address(self, path: str) -> str:
        return f"{self.url.rstrip('/').removesuffix('/v1')}/v1/{path}"


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server at once.

    Attributes:
        streams: requests at the same time, all with different prompts.
        prompt_tokens: length of each prompt, in token ids (or letters, see `Target.text_prompts`).
        max_tokens: of each answer.
        max_token_id: prompts hold ids from 100 up to below this one.
        ignore_eos: ask for answers of exactly `max_tokens` (vLLM's extension, which many servers know).
        timeout: seconds for one answer.
    """

    streams: int
    prompt_tokens: int
    max_tokens: int
    max_token_id: int = 1000
    ignore_eos: bool = True
    timeout: float = 300.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One streamed answer; times in seconds of the same clock.

    Attributes:
        arrivals: of the events that hold a choice.
    """

    sent: float
    arrivals: list[float]
    prompt_tokens: int
    completion_tokens: int

    @property
    def to_first_token(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def per_token(self) -> float | None:
        """Mean time between tokens; None for one token."""
        if self.completion_tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.completion_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Between events, which hold a token each on most servers."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


def send(target: Target, load: Load, seed: int) -> list[Reply]:
    """Send a load once and wait for all answers.

    Args:
        seed: another seed gives other prompts, so that no prefix cache answers.

    Raises:
        BenchmarkError: the server can't be reached, refuses, breaks off or does not say how many tokens it made.
    """
    return asyncio.run(_send(target, load, seed))


async def _send(target: Target, load: Load, seed: int) -> list[Reply]:
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    limits = httpx.Limits(max_connections=load.streams)
    # No proxy from the environment stands between the client and the server it measures.
    async with httpx.AsyncClient(
        headers=headers, timeout=load.timeout, limits=limits, trust_env=False
    ) as client:
        try:
            model = target.model or await _first_model(client, target)
            bodies = [_body(target, load, model, f"{seed}/{number}") for number in range(load.streams)]
            async with asyncio.timeout(load.timeout):
                return await asyncio.gather(*(_stream(client, target, body) for body in bodies))
        except httpx.HTTPError as error:
            raise BenchmarkError(f"{target.url}: {error or type(error).__name__}") from error
        except TimeoutError:
            raise BenchmarkError(f"{target.url}: no whole answer in {load.timeout:g} s") from None


async def _first_model(client: httpx.AsyncClient, target: Target) -> str:
    response = await client.get(target.address("models"))
    if response.status_code != httpx.codes.OK:
        raise _refusal(target, response)
    return response.json()["data"][0]["id"]


def _body(target: Target, load: Load, model: str, seed: str) -> dict[str, Any]:
    draw = random.Random(seed)
    prompt: str | list[int]
    if target.text_prompts:
        prompt = "".join(draw.choices(string.ascii_letters, k=load.prompt_tokens))
    else:
        prompt = [draw.randrange(FIRST_TOKEN_ID, load.max_token_id) for _ in range(load.prompt_tokens)]
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": load.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {**body, "ignore_eos": True} if load.ignore_eos else body


async def _stream(client: httpx.AsyncClient, target: Target, body: dict[str, Any]) -> Reply:
    arrivals: list[float] = []
    usage: dict[str, int] | None = None
    sent = time.perf_counter()
    async with client.stream("POST", target.address("completions"), json=body) as response:
        if response.status_code != httpx.codes.OK:
            await response.aread()
            raise _refusal(target, response)
        async for line in response.aiter_lines():
            arrived = time.perf_counter()
            if not line.startswith("data:") or line.endswith("[DONE]"):
                continue
            event = msgspec.json.decode(line.removeprefix("data:"))
            if "error" in event:
                raise BenchmarkError(f"{target.url}: {event['error']}")
            if event.get("choices"):
                arrivals.append(arrived)
            usage = event.get("usage") or usage
    if not arrivals or usage is None:
        raise BenchmarkError(f"{target.url}: the stream had no {'usage' if arrivals else 'tokens'}")
    return Reply(sent, arrivals, usage["prompt_tokens"], usage["completion_tokens"])


def _refusal(target: Target, response: httpx.Response) -> BenchmarkError:
    return BenchmarkError(f"{response.request.url} answered {response.status_code}: {response.text[:500]}")

"""Hours of mixed load on one server: does anything grow, slow down or go wrong?

Requests of many kinds come at random times (`tools/reliability/soak_requests.py`): streams and whole answers compared
with the right ones, streams given up in the middle, grammars that are new each time, tool calls, refused and odd
requests. At every interval the processes and the server's own counts are looked at. The pool of cache blocks is small,
so that all of it is used, and evicted from, within the warm-up.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tools.reliability.load import after, arrive
from tools.reliability.questions import make_questions
from tools.reliability.results import Kept
from tools.reliability.server_process import Launch, ServerProcess, running
from tools.reliability.soak_requests import Mixture
from tools.reliability.wire import exchange

PRELUDE = 60
BLOCK_STATES = ("used", "cached", "free")


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes; times in seconds.

    Attributes:
        rate: requests per second.
        interval: between two samples.
    """

    seed: int
    minutes: float = 60.0
    rate: float = 6.0
    interval: float = 30.0
    questions: int = 12
    tokens: tuple[int, int] = (8, 32)
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A process from outside; its memory in MiB, its CPU time since it was started."""

    rss: float
    files: int
    threads: int
    cpu_seconds: float

    @classmethod
    def of(cls, pid: int) -> "Seen":
        process = psutil.Process(pid)
        times = process.cpu_times()
        return cls(
            rss=process.memory_info().rss / (1 << 20),
            files=process.num_fds(),
            threads=process.num_threads(),
            cpu_seconds=times.user + times.system,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment, and what ended since the one before.

    Attributes:
        seconds: since the first sample, which is taken before the load.
        processes: by role.
        blocks: by state; "used" ones hold live sequences.
        restarts: of the engine.
        requests: ended ones by kind.
        faults: what was wrong with them.
        first_tokens: of streams, seconds until the first token.
        whole: of whole answers, seconds.
        leftovers: of the last sample, when nobody asks any more: what is still held.
    """

    seconds: float
    processes: dict[str, Seen]
    blocks: dict[str, int]
    restarts: int
    requests: dict[str, int]
    faults: list[str]
    first_tokens: list[float]
    whole: list[float]
    leftovers: str | None = None


@dataclass(slots=True)
class Ended:
    """Requests that ended since the last sample."""

    requests: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


async def run(launch: Launch, plan: Plan, kept: Kept[Sample]) -> None:
    """Soak a server, keeping a sample each interval."""
    async with running(launch) as server:
        questions = await make_questions(server.port, plan.questions, plan.tokens, plan.seed)
        soaking = _Soaking(server, Mixture(questions, plan.seed), plan)
        await soaking.prelude()
        kept.add(await soaking.sample())
        sampling = asyncio.create_task(soaking.keep_sampling(kept))
        stop = after(60 * plan.minutes)
        await asyncio.gather(*await arrive(soaking.send, plan.rate, random.Random(plan.seed), stop))
        sampling.cancel()
        with suppress(asyncio.CancelledError):  # but not what made the sampling end before
            await sampling
        kept.add(await soaking.sample(await server.leftovers()))


def _look(processes: dict[str, int]) -> dict[str, Seen]:
    """At those that are still there: a grammar worker may end at any time."""
    seen = {}
    for role, pid in processes.items():
        with suppress(psutil.NoSuchProcess):
            seen[role] = Seen.of(pid)
    return seen


class _Soaking:
    def __init__(self, server: ServerProcess, mixture: Mixture, plan: Plan) -> None:
        self._server = server
        self._mixture = mixture
        self._plan = plan
        self._numbers = itertools.count()
        self._ended = Ended()
        self._started: float | None = None

    async def prelude(self) -> None:
        """Some requests of every kind at once: what is made on first use, and pools of threads, are there then."""
        await asyncio.gather(*(self.send() for _ in range(PRELUDE)))
        await self._server.leftovers()

    async def send(self) -> None:
        """One request of the mixture."""
        request = self._mixture.draw(next(self._numbers))
        done = await exchange(self._server.port, request.call, self._plan.timeout)
        ended = self._ended
        ended.requests[request.kind] += 1
        if fault := request.check(done):
            ended.faults.append(f"{request.kind}: {fault}")
        if request.kind == "streamed" and done.parts:
            ended.first_tokens.append(done.parts[0][0] - done.sent)
        elif request.kind == "whole":
            ended.whole.append(done.ended - done.sent)

    async def keep_sampling(self, kept: Kept[Sample]) -> None:
        """A sample each interval, by the clock."""
        start = time.perf_counter()
        for number in itertools.count(1):
            await asyncio.sleep(start + number * self._plan.interval - time.perf_counter())
            kept.add(await self.sample())

    async def sample(self, leftovers: str | None = None) -> Sample:
        """Look at everything now."""
        now = time.perf_counter()
        self._started = self._started or now
        ended, self._ended = self._ended, Ended()
        metrics = await self._server.metrics()
        return Sample(
            seconds=now - self._started,
            processes=_look(self._server.processes()),
            blocks={s: int(metrics[f"loopserve_kv_cache_blocks{{state={s}}}"]) for s in BLOCK_STATES},
            restarts=int(metrics["loopserve_engine_restarts_total"]),
            requests=ended.requests,
            faults=ended.faults,
            first_tokens=ended.first_tokens,
            whole=ended.whole,
            leftovers=leftovers,
        )

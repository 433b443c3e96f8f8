"""Arrivals come when they should, and a balancer finds whoever is ready."""

import asyncio
import random
import time

from tests.tools.reliability.scripted import plain, serving
from tools.reliability.balancer import balancing
from tools.reliability.load import after, arrive, closed_loop, probing
from tools.reliability.questions import Answer, Outcome
from tools.reliability.wire import get


def test_arrivals_do_not_wait_for_answers() -> None:
    async def run() -> tuple[int, float]:
        stop = asyncio.Event()
        begun = time.perf_counter()
        tasks = await arrive(stop.wait, 200.0, random.Random(1), after(1.0))
        seconds = time.perf_counter() - begun
        stop.set()
        await asyncio.gather(*tasks)
        return len(tasks), seconds

    count, seconds = asyncio.run(run())
    assert 150 < count < 250
    assert 0.9 < seconds < 2


def test_a_closed_loop_keeps_so_many_under_way_and_pauses_after_a_refusal() -> None:
    most = now = 0

    async def ask() -> Answer:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return Answer(Outcome.RIGHT if most < 3 else Outcome.REFUSED, 0, 0)

    answers = asyncio.run(_for(0.3, ask))
    assert most == 3
    assert len(answers) == 6  # a refused client waits longer than the test


async def _for(seconds: float, ask: object) -> list[Answer]:
    return await closed_loop(ask, 3, after(seconds), pause=0.2)  # type: ignore[arg-type]


def test_probes_tell_slow_from_absent() -> None:
    async def run() -> list[float]:
        async with serving([plain("200 OK", b"{}")]) as port, probing(port) as delays:
            await asyncio.sleep(0.4)
        return delays

    delays = asyncio.run(run())
    assert len(delays) > 2
    assert all(0 < delay < 2 for delay in delays)


def test_the_balancer_asks_only_the_ready_and_survives_their_end() -> None:
    ready, loading = plain("200 OK", b"ready"), plain("503 Loading", b"loading")

    async def run() -> list[bytes]:
        seen = []
        async with balancing() as balancer, serving([loading]) as second:
            async with serving([ready]) as first:
                balancer.backends = {"a": first, "b": second}
                await asyncio.sleep(0.4)
                seen += [(await get(balancer.port, "/")).body for _ in range(4)]
            gone = await get(balancer.port, "/", timeout=5)
            seen.append(gone.failure.value.encode() if gone.failure else gone.body)
        return seen

    *answers, last = asyncio.run(run())
    assert answers == [b"ready"] * 4
    assert last == b"connection ended before the answer began"

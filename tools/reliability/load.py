"""Load on a server: requests that come when they come, or so many at a time."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from tools.reliability.questions import Answer, Outcome, Question
from tools.reliability.wire import exchange, get

T = TypeVar("T")
PROBE_INTERVAL = 0.05
PROBE_TIMEOUT = 10.0


class Asker:
    """Asks questions in a seeded order and judges the answers; each is new to the prefix cache."""

    def __init__(
        self, port: int, questions: list[Question], seed: int, *, timeout: float, streamed: float = 1.0
    ) -> None:
        """Prepare.

        Args:
            timeout: seconds that a client waits for the end of an answer.
            streamed: share of the requests that want a stream.
        """
        self._port = port
        self._questions = questions
        self._seed = seed
        self._timeout = timeout
        self._streamed = streamed
        self._numbers = itertools.count()

    async def ask(self) -> Answer:
        """One request."""
        number = next(self._numbers)
        rng = random.Random(f"{self._seed}/{number}")
        question = rng.choice(self._questions)
        call = question.call(f"{self._seed}/{number}", stream=rng.random() < self._streamed)
        return question.judge(await exchange(self._port, call, self._timeout))


async def arrive(
    ask: Callable[[], Awaitable[T]], rate: float, rng: random.Random, stop: asyncio.Event
) -> list["asyncio.Task[T]"]:
    """Send requests at random times (a Poisson process) until `stop`, whatever becomes of those before.

    Args:
        rate: requests per second.

    Returns:
        All of them; some may still be under way.
    """
    due = time.perf_counter()
    tasks: list[asyncio.Task[T]] = []
    while True:
        due += rng.expovariate(rate)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.perf_counter())):
                await stop.wait()
                return tasks
        tasks.append(asyncio.create_task(_awaited(ask)))


async def _awaited(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()


def after(seconds: float) -> asyncio.Event:
    """An event that is set then."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, event.set)
    return event


async def closed_loop(
    ask: Callable[[], Awaitable[Answer]], streams: int, stop: asyncio.Event, pause: float = 0.1
) -> list[Answer]:
    """Keep so many requests under way until `stop` is set and the last have been answered.

    Args:
        pause: seconds that a client waits after anything but a right answer.
    """
    answers: list[Answer] = []

    async def one() -> None:
        while not stop.is_set():
            answer = await ask()
            answers.append(answer)
            if answer.outcome is not Outcome.RIGHT:
                await asyncio.sleep(pause)

    await asyncio.gather(*(one() for _ in range(streams)))
    return answers


@asynccontextmanager
async def probing(port: int, path: str = "/health") -> AsyncIterator[list[float]]:
    """Ask for `path` twenty times a second; the list gets the seconds of each answer, `PROBE_TIMEOUT` for none."""
    delays: list[float] = []

    async def probe() -> None:
        while True:
            done = await get(port, path, PROBE_TIMEOUT)
            delays.append(done.ended - done.sent if done.failure is None else PROBE_TIMEOUT)
            await asyncio.sleep(PROBE_INTERVAL)

    task = asyncio.create_task(probe())
    try:
        yield delays
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

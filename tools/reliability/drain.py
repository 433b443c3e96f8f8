"""Whether rolling restarts lose anything.

Two replicas stand behind a balancer that looks at /ready. One after another gets SIGTERM at a random moment under load;
its successor is started at the same time. The clients are the real openai client with its own retries, nothing more.
Every answer is compared with the right one.
"""

import asyncio
import itertools
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import openai

from tools.reliability.balancer import Balancer, balancing
from tools.reliability.questions import Question, make_questions
from tools.reliability.results import Kept, command_line, milliseconds, table, verdict
from tools.reliability.server_process import Launch, ServerProcess
from tools.reliability.statistics import percentile

CLIENT_TIMEOUT = 60.0
NAMES = ("a", "b")


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes.

    Attributes:
        clients: applications, each with one request at a time.
        think: most seconds between an answer and the next request of a client.
        tokens: least and most of an answer.
        settle: most seconds between a successor's readiness and the next restart.
    """

    seed: int
    restarts: int = 200
    clients: int = 8
    think: float = 1.0
    questions: int = 24
    tokens: tuple[int, int] = (32, 320)
    settle: float = 1.0


@dataclass(slots=True)
class Tally:
    """Requests that ended between two restarts.

    Attributes:
        right: with the right answer, of them `streamed` as a stream.
        lost: given up by the client, or with a cut or wrong answer.
        tries: sent by the client's library, which hides its retries.
        accepted, refused: tries that an answer with 200, or another status, came for; the others lost their connection.
    """

    right: int = 0
    streamed: int = 0
    lost: list[str] = field(default_factory=list)
    tries: int = 0
    accepted: int = 0
    refused: int = 0

    def add(self, other: "Tally") -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(frozen=True, slots=True)
class Restart:
    """One restart; times in seconds.

    Attributes:
        drain: from SIGTERM to the end of the process.
        start: from its start until the successor was ready.
        under_way: requests at the moment of SIGTERM, of both replicas.
        tally: what ended since the restart before, until the successor was ready; of the last, to the end.
    """

    exit_code: int | None
    drain: float
    start: float
    under_way: int
    tally: Tally


class Clients:
    """Applications that use the openai client and know nothing of replicas."""

    def __init__(self, port: int, questions: list[Question], plan: Plan, first: int) -> None:
        self.under_way = 0
        self.tally = Tally()
        self._questions = questions
        self._plan = plan
        self._numbers = itertools.count(first)
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [self._on_try],
            "response": [self._on_response],
        }
        self._client = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1",
            api_key="none",
            timeout=CLIENT_TIMEOUT,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks, trust_env=False),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """All clients, until `stop` and the ends of their last requests."""
        await asyncio.gather(*(self._one(name, stop) for name in range(self._plan.clients)))

    async def _one(self, name: int, stop: asyncio.Event) -> None:
        rng = random.Random(f"{self._plan.seed}/client {name}")
        while not stop.is_set():
            await self._ask()
            await asyncio.sleep(rng.uniform(0, self._plan.think))

    async def _ask(self) -> None:
        """One request, counted in the tally when it ends."""
        number = next(self._numbers)
        rng = random.Random(f"{self._plan.seed}/{number}")
        question, stream = rng.choice(self._questions), rng.random() < 0.5
        self.under_way += 1
        try:
            text = await self._say(question, f"{self._plan.seed}/{number}", stream)
        except Exception as error:  # whatever an application would get instead of its answer
            self.tally.lost.append(f"{error!r} from {error.__cause__!r}")
        else:
            if text == question.text:
                self.tally.right += 1
                self.tally.streamed += stream
            else:
                self.tally.lost.append(f"wrong answer: {text!r} for {question.text!r}")
        finally:
            self.under_way -= 1

    async def _say(self, question: Question, salt: str, stream: bool) -> str:
        body = question.call(salt, stream=False).body
        assert isinstance(body, dict)
        known = {name: body.pop(name) for name in ("prompt", "max_tokens", "temperature")}
        if not stream:
            answer = await self._client.completions.create(model="demo", **known, extra_body=body)
            return answer.choices[0].text
        chunks = await self._client.completions.create(model="demo", **known, stream=True, extra_body=body)
        return "".join([chunk.choices[0].text async for chunk in chunks if chunk.choices])

    async def _on_try(self, request: object) -> None:
        self.tally.tries += 1

    async def _on_response(self, response: Any) -> None:
        if response.status_code == 200:
            self.tally.accepted += 1
        else:
            self.tally.refused += 1

    async def close(self) -> None:
        await self._client.close()


class Replicas:
    """Servers by name, and the balancer that has to know them."""

    def __init__(self, launch: Launch, balancer: Balancer, directory: Path) -> None:
        self.servers: dict[str, ServerProcess] = {}
        self._launch = launch
        self._balancer = balancer
        self._directory = directory
        self._numbers = itertools.count()

    async def start(self, name: str) -> float:
        """Start a server and wait until it is ready; returns the seconds that took."""
        directory = self._directory / str(next(self._numbers))
        directory.mkdir()
        server = self.servers[name] = ServerProcess(self._launch, directory)
        seconds = await server.wait_ready()
        self._balancer.backends[name] = server.port
        return seconds

    async def replace(self, name: str) -> tuple[int | None, float, float]:
        """SIGTERM one and start its successor at once; returns the exit code and the seconds of drain and start."""
        old = self.servers[name]
        old.signal(signal.SIGTERM)
        ending = asyncio.create_task(_timed_exit(old))
        start = await self.start(name)
        code, drain = await ending
        await old.end()
        return code, drain, start

    async def end(self) -> None:
        for server in self.servers.values():
            await server.end()


async def _timed_exit(server: ServerProcess) -> tuple[int | None, float]:
    since = time.perf_counter()
    return await server.wait_exit(), time.perf_counter() - since


async def run(launch: Launch, plan: Plan, kept: Kept[Restart]) -> None:
    """Restart until so many are kept.

    Raises:
        ReliabilityError: a replica doesn't get ready.
    """
    done = len(kept.records)
    rng = random.Random(f"{plan.seed}/{done}")
    async with balancing() as balancer:
        with tempfile.TemporaryDirectory(prefix="rel-") as directory:
            replicas = Replicas(launch, balancer, Path(directory))
            try:
                for name in NAMES:
                    await replicas.start(name)
                port = replicas.servers[NAMES[0]].port
                questions = await make_questions(port, plan.questions, plan.tokens, plan.seed)
                clients = Clients(balancer.port, questions, plan, done * 1_000_000)
                await _restarts(replicas, clients, plan, kept, rng)
            finally:
                await replicas.end()


async def _restarts(
    replicas: Replicas, clients: Clients, plan: Plan, kept: Kept[Restart], rng: random.Random
) -> None:
    stop = asyncio.Event()
    asking = asyncio.create_task(clients.run(stop))
    try:
        while len(kept.records) < plan.restarts:
            await asyncio.sleep(rng.uniform(0.2, plan.settle))
            under_way = clients.under_way
            code, drain, start = await replicas.replace(NAMES[len(kept.records) % len(NAMES)])
            if len(kept.records) + 1 == plan.restarts:
                stop.set()
                await asking
            tally, clients.tally = clients.tally, Tally()
            kept.add(Restart(code, drain, start, under_way, tally))
    finally:
        stop.set()
        await asking
        await clients.close()


def problems(restarts: list[Restart]) -> list[str]:
    """Broken promises."""
    found = []
    for number, restart in enumerate(restarts):
        if restart.exit_code != 0:
            found.append(f"restart {number}: exit code {restart.exit_code}")
        found += [f"restart {number}: {lost}" for lost in restart.tally.lost]
    return found


def page(kept: Kept[Restart], path: Path) -> None:
    """docs/results/drain.md."""
    restarts = kept.records
    total = Tally()
    for restart in restarts:
        total.add(restart.tally)
    codes = Counter(restart.exit_code for restart in restarts)
    rows = [
        ("rolling restarts", len(restarts)),
        ("of them while requests were under way", sum(restart.under_way > 0 for restart in restarts)),
        ("exit codes", ", ".join(f"{code}: {count}" for code, count in codes.items())),
        ("requests", f"{total.right + len(total.lost):,}"),
        ("right answers", f"{total.right:,}"),
        ("of them streamed", f"{total.streamed:,}"),
        ("tries refused with 503", f"{total.refused:,}"),
        ("tries whose connection failed", f"{total.tries - total.accepted - total.refused:,}"),
        ("**requests lost, cut or wrong**", len(total.lost)),
        ("SIGTERM to exit: p50, p99, most", _three([restart.drain for restart in restarts])),
        ("start to ready, beside the load: p50, p99, most", _three([restart.start for restart in restarts])),
    ]
    path.write_text(f"""# Drain

    make drain
    {command_line()}

{__doc__.strip() if __doc__ else ""}

{table(("", ""), rows)}

Broken promises (exit code 0, nothing lost):

{verdict(problems(restarts))}

{kept.provenance()}
""")


def _three(seconds: list[float]) -> str:
    return ", ".join(milliseconds(percentile(seconds, share)) for share in (0.5, 0.99, 1.0))

"""What clients see when the engine process dies or hangs, and what becomes of the server.

One server after another is put under load. At random moments its engine process gets SIGKILL or SIGSTOP; after three
restarts the budget is used up and a fourth crash must end the server with exit code 70. Some servers instead lose their
API process by SIGKILL: its children must then go by themselves.
"""

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, replace

import psutil

from tools.reliability.failure import ReliabilityError
from tools.reliability.load import Asker, closed_loop
from tools.reliability.questions import Answer, Outcome, make_questions
from tools.reliability.results import Kept
from tools.reliability.server_process import ENGINE, POLL, Launch, ServerProcess, is_alive, running

SIGNALS = {"kill -9": signal.SIGKILL, "stop": signal.SIGSTOP}
API = "kill -9 of the API process"
BUDGET = 3
EXIT_GAVE_UP = 70
MAX_SECONDS = 120.0
PAUSE = 0.25
"""Seconds that a client waits after a refusal: less, and eight of them slow the restart down."""
EXTRA_FILES = 2
"""More open files than before are no leak yet: a connection may just be closing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes; times in seconds.

    Attributes:
        crashes: of each kind, with a restart after each; those that end a server come on top.
        api_kills: servers whose API process is killed.
        heartbeat_timeout: the server's `--heartbeat-timeout`, after which it holds the engine for hung.
        streams: requests under way.
        settle: most seconds between the begin of the load and the crash.
    """

    seed: int
    crashes: int = 50
    api_kills: int = 10
    heartbeat_timeout: float = 2.0
    streams: int = 8
    questions: int = 12
    tokens: tuple[int, int] = (64, 256)
    settle: float = 2.0
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash; times in seconds since it.

    Attributes:
        kind: a key of `SIGNALS`, or `API`.
        under_way: requests sent before it and not yet answered.
        errors: until the typed error, of the requests that were under way.
        finished: requests under way whose right answer still came whole.
        refused: requests under way or sent until the engine was ready again that got 503.
        silent: requests that ended in any other way, which none may.
        bare: refusals without Retry-After.
        ready: until /ready said 200 again; None if the server ended.
        exit: until the server ended; None if it went on.
        right_after: right answers after the restart; the first is asked for as soon as /ready allows.
        leaks: what was still held afterwards.
    """

    kind: str
    under_way: int
    errors: list[float]
    finished: int
    refused: int
    silent: list[str]
    bare: int
    ready: float | None
    exit: float | None
    exit_code: int | None
    right_after: int
    leaks: str


async def run(launch: Launch, plan: Plan, kept: Kept[Crash]) -> None:
    """Crash servers until enough crashes are kept.

    Raises:
        ReliabilityError: a server doesn't get ready.
    """
    while kinds := _missing(plan, kept.records):
        await _one_life(launch, plan, kept, kinds)
    while sum(crash.kind == API for crash in kept.records) < plan.api_kills:
        await _one_life(launch, plan, kept, [API])


def _missing(plan: Plan, crashes: list[Crash]) -> list[str]:
    """Kinds of the crashes with a restart that are still to be done, in a drawn order."""
    kinds = []
    for kind in SIGNALS:
        done = sum(crash.kind == kind and crash.ready is not None for crash in crashes)
        kinds += [kind] * (plan.crashes - done)
    random.Random(f"{plan.seed}/{len(crashes)}").shuffle(kinds)
    return kinds


async def _one_life(launch: Launch, plan: Plan, kept: Kept[Crash], kinds: list[str]) -> None:
    """A server, its restarts and its end."""
    seed = f"{plan.seed}/{len(kept.records)}"
    rng = random.Random(seed)
    options = ("--heartbeat-timeout", str(plan.heartbeat_timeout))
    async with running(launch.with_options(*options)) as server:
        questions = await make_questions(server.port, plan.questions, plan.tokens, plan.seed)
        asker = Asker(server.port, questions, len(kept.records), timeout=plan.timeout, streamed=0.7)
        life = _Life(server, asker, plan, rng)
        if kinds == [API]:
            kept.add(await life.crash(API))
            return
        for kind in kinds[:BUDGET]:
            kept.add(await life.crash(kind))
        if len(kinds) >= BUDGET:
            kept.add(await life.crash(rng.choice(list(SIGNALS))))


class _Life:
    """One server that is crashed again and again."""

    def __init__(self, server: ServerProcess, asker: Asker, plan: Plan, rng: random.Random) -> None:
        self._server = server
        self._asker = asker
        self._plan = plan
        self._rng = rng
        self._open_files = 0

    async def crash(self, kind: str) -> Crash:
        """Put the server under load, crash it, wait for what comes of it and judge all answers."""
        server, stop = self._server, asyncio.Event()
        if not self._open_files:
            await server.leftovers()
            self._open_files = psutil.Process(server.pid).num_fds()
        engine = server.processes().get(ENGINE)
        if engine is None:
            raise ReliabilityError(f"the server has no engine process:\n{server.log.read_text()[-2000:]}")
        load = asyncio.create_task(closed_loop(self._asker.ask, self._plan.streams, stop, PAUSE))
        await asyncio.sleep(self._rng.uniform(0.2, self._plan.settle))
        children = psutil.Process(server.pid).children(recursive=True)
        at = time.perf_counter()
        os.kill(server.pid if kind == API else engine, SIGNALS.get(kind, signal.SIGKILL))
        ready, ended = await self._outcome(at, [child.pid for child in children])
        first = [] if ready is None else [await self._asker.ask()]
        stop.set()
        crash = await self._judge(kind, at, ready, ended, first + await load)
        return replace(crash, leaks=f"{crash.leaks} the old engine runs on") if is_alive(engine) else crash

    async def _outcome(self, at: float, children: list[int]) -> tuple[float | None, float | None]:
        """Seconds until it was ready again, or until all its processes had ended."""
        server, was_down = self._server, False
        while time.perf_counter() < at + MAX_SECONDS:
            if server.exit_code is not None:
                if not any(is_alive(child) for child in children):
                    return None, time.perf_counter() - at
            elif not await server.is_ready():
                was_down = True
            elif was_down:
                return time.perf_counter() - at, None
            await asyncio.sleep(POLL)
        return None, None

    async def _judge(
        self, kind: str, at: float, ready: float | None, ended: float | None, answers: list[Answer]
    ) -> Crash:
        back = at + (ready if ready is not None else MAX_SECONDS)
        touched = [answer for answer in answers if answer.ended >= at and answer.sent < back]
        under_way = [answer for answer in touched if answer.sent <= at]
        refused = [answer for answer in touched if answer.outcome is Outcome.REFUSED]
        fine = {Outcome.RIGHT, Outcome.REFUSED, Outcome.ENGINE_DEAD}
        if ended is not None:  # nobody listens any more
            fine.add(Outcome.UNREACHABLE)
        if kind == API:  # nobody is left to say why
            fine.add(Outcome.CUT)
        return Crash(
            kind=kind,
            under_way=len(under_way),
            errors=[a.ended - at for a in under_way if a.outcome is Outcome.ENGINE_DEAD],
            finished=sum(answer.outcome is Outcome.RIGHT for answer in under_way),
            refused=len(refused),
            silent=[f"{a.outcome} {a.detail}" for a in answers if not self._is_fine(a, fine, touched)],
            bare=sum(not answer.retry_after for answer in refused),
            ready=ready,
            exit=ended,
            exit_code=self._server.exit_code,
            right_after=sum(answer.outcome is Outcome.RIGHT and answer.sent >= back for answer in answers),
            leaks=await self._leaks(),
        )

    def _is_fine(self, answer: Answer, fine: set[Outcome], touched: list[Answer]) -> bool:
        return answer.outcome is Outcome.RIGHT or (answer.outcome in fine and answer in touched)

    async def _leaks(self) -> str:
        if self._server.exit_code is not None:
            left = [path.name for path in self._server.scratch.iterdir()]
            return f"files left: {', '.join(left)}" if left else ""
        held = await self._server.leftovers()
        files = psutil.Process(self._server.pid).num_fds()
        if files > self._open_files + EXTRA_FILES:
            held += f" open files: {files}, {self._open_files} before"
        return held

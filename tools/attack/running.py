"""Sends cases, some at a time, and counts what came of them."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tools.attack.case import Case
from tools.attack.oracle import Kind, Problem, judge, overloaded
from tools.attack.results import Part, RowResult, note
from tools.attack.servers import Keeper
from tools.attack.wire import Exchange, Outcome, exchange

AT_ONCE = 6
ATTEMPTS = 6
MOST_WAIT = 5.0
LOST = (Kind.HANG, Kind.DROPPED)
CONFIRMED = 2
"""Cases of a row that got no answer and were sent again alone; the row's others are taken at their word."""


@dataclass(slots=True)
class Sender:
    """Sends cases to one server and counts into one part.

    Attributes:
        until: monotonic time after which no further case is begun.
    """

    keeper: Keeper
    part: Part
    rows: dict[str, RowResult] = field(default_factory=dict)
    until: float = float("inf")
    _busy: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _alone: bool = False

    async def send_all(self, cases: Iterable[Case], at_once: int = AT_ONCE) -> None:
        """Every case, slow ones beside the others.

        Raises:
            AttackError: the server is gone for good.
        """
        left = iter(cases)
        slow: list[asyncio.Task[bool]] = []
        workers = [asyncio.create_task(self._work(left, slow)) for _ in range(at_once)]
        try:
            await asyncio.gather(*workers)
            await asyncio.gather(*slow)
        finally:
            for task in (*workers, *slow):
                task.cancel()
            await asyncio.gather(*workers, *slow, return_exceptions=True)

    async def _work(self, cases: Iterator[Case], slow: list[asyncio.Task[bool]]) -> None:
        for case in cases:
            if time.monotonic() > self.until:
                self.part.cut = self.part.cut or "its time was over"
                return
            if case.slow:
                slow.append(asyncio.create_task(self._one(case)))
                continue
            async with self._changed:
                await self._changed.wait_for(lambda: not self._alone)
                self._busy += 1
            lost = not await self._one(case)
            async with self._changed:
                self._busy -= 1
                self._changed.notify_all()
            if lost:
                await self._again_alone(case)

    async def _one(self, case: Case) -> bool:
        """Send a case and count it; False if it got no answer and is to be sent again before it counts."""
        done = await self._sent(case)
        problems = judge(case, done)
        lost = any(problem.kind in LOST for problem in problems)
        if lost:
            await self.keeper.check()
        row = self.rows.setdefault(case.row, RowResult(case.row, ""))
        if lost and not case.slow and sum(row.kinds.get(kind, 0) for kind in LOST) < CONFIRMED:
            return False
        self._count(case, done, problems)
        return True

    async def _again_alone(self, case: Case) -> None:
        """Send a case that got no answer again, when nothing else is under way: others may have been the cause."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            await self._changed.wait_for(lambda: self._busy == 0)
        try:
            await self.keeper.recovered()
            done = await self._sent(case)
            problems = judge(case, done)
            if any(problem.kind in LOST for problem in problems):
                await self.keeper.recovered()
            else:
                self.part.beside += 1
            self._count(case, done, problems)
        finally:
            async with self._changed:
                self._alone = False
                self._changed.notify_all()

    async def _sent(self, case: Case) -> Exchange:
        """Send it, again if the server was too busy or just being started."""
        target = self.keeper.target
        for _ in range(ATTEMPTS):
            done = await exchange(target.host, target.port, case.pieces(), case.manners)
            if done.outcome is Outcome.UNREACHABLE:
                await self.keeper.check()
            elif overloaded(done):
                self.part.overloads += 1
                after = done.answers[0].headers["retry-after"]
                await asyncio.sleep(min(float(after) if after.isdigit() else 1.0, MOST_WAIT))
            else:
                break
        return done

    def _count(self, case: Case, done: Exchange, problems: list[Problem]) -> None:
        row = self.rows.setdefault(case.row, RowResult(case.row, ""))
        status = str(done.answers[0].status) if done.answers else "-"
        self.part.count(row, status, problems)
        if problems:
            note(row, f"{case.name}: {problems[0]}")


@dataclass(slots=True)
class Tripwire:
    """A listener that no server has a reason to connect to."""

    address: str
    hits: int = 0


@asynccontextmanager
async def tripwire() -> AsyncIterator[Tripwire]:
    """Listen on the loopback interface and count who comes."""
    wire = Tripwire("")

    def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.hits += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0, family=socket.AF_INET)
    wire.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/tripwire"
    async with server:
        yield wire

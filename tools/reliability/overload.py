"""What a server does when ten times as many requests come as it can answer.

A round, on one fresh server: its capacity (all slots kept busy), calm at half of it, then once, ten times and twice
its capacity, each with calm behind it. Arrivals are random and don't wait for answers; nobody retries. Every answer is
compared with the right one; goodput is right answers' tokens that arrive while requests are being sent.
"""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.spread import Spread
from tools.reliability.load import Asker, after, arrive, closed_loop, probing
from tools.reliability.questions import Answer, Outcome, make_questions
from tools.reliability.results import Kept, command_line, milliseconds, table, verdict
from tools.reliability.server_process import Launch, ServerProcess, running
from tools.reliability.statistics import percentile

CALM = "calm"
SLOW = 1.5
"""A probe so many times slower than the slowest of the calm phase counts as not recovered yet."""
RAMP = 0.2
"""Share of a phase left out of its goodput: slots fill first."""
MAX_RECOVERY = 5.0
MIN_GOODPUT = 0.95


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes; times in seconds.

    Attributes:
        streams: slots of the server (`--max-num-seqs`).
        waiting: its `--max-waiting-requests`; as many as slots, so that nobody admitted waits longer than an answer.
        tokens: least and most of an answer.
        timeout: a client that has no whole answer by then counts as lost.
    """

    seed: int
    rounds: int = 3
    streams: int = 16
    waiting: int = 16
    questions: int = 24
    tokens: tuple[int, int] = (32, 96)
    calm: float = 10.0
    once: float = 15.0
    ten_times: float = 60.0
    twice: float = 120.0
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase; times in seconds.

    Attributes:
        rate: requests sent per second; of the capacity phase, answered per second.
        goodput: tokens of right answers per second.
        first_token: median, 99th percentile and slowest; the other pairs are without the last, but `retry_after`,
            which is the least and the most.
        bare: refusals without a usable Retry-After.
        lost: answers that are neither right nor a typed refusal.
        recovery: until the last bad probe afterwards; None where nothing is recovered from.
    """

    name: str
    rate: float
    requests: int
    right: int
    refused: int
    bare: int
    lost: list[str]
    goodput: float
    first_token: tuple[float, float, float]
    gap: tuple[float, float]
    health: tuple[float, float]
    retry_after: tuple[int, int]
    recovery: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """All phases of one server, and what it held in the end."""

    phases: list[Phase]
    leftovers: str

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)


async def run(launch: Launch, plan: Plan, kept: Kept[Round]) -> None:
    """Rounds until so many are kept."""
    while len(kept.records) < plan.rounds:
        kept.add(await run_round(launch, plan, len(kept.records)))


async def run_round(launch: Launch, plan: Plan, number: int) -> Round:
    """One round on a server of its own."""
    limits = ("--max-num-seqs", str(plan.streams), "--max-waiting-requests", str(plan.waiting))
    async with running(launch.with_options(*limits)) as server:
        seed = plan.seed * 1000 + number
        questions = await make_questions(server.port, plan.questions, plan.tokens, seed)
        asker = Asker(server.port, questions, seed, timeout=plan.timeout)
        return await _Running(server, asker, plan, random.Random(seed)).run()


class _Running:
    def __init__(self, server: ServerProcess, asker: Asker, plan: Plan, rng: random.Random) -> None:
        self._server = server
        self._asker = asker
        self._plan = plan
        self._rng = rng

    async def run(self) -> Round:
        plan = self._plan
        capacity = await self._capacity()
        calm, _ = await self._sent(CALM, capacity.rate / 2, plan.calm, None)
        limit = SLOW * calm.first_token[2]
        phases = [capacity, calm]
        for name, factor, seconds in (
            ("1×", 1, plan.once),
            ("10×", 10, plan.ten_times),
            ("2×", 2, plan.twice),
        ):
            phase, afterwards = await self._sent(name, capacity.rate * factor, seconds, (calm.rate, limit))
            phases += [phase, *afterwards]
        return Round(phases, await self._server.leftovers())

    async def _capacity(self) -> Phase:
        """So many clients that whenever an answer ends, somebody waits for its slot."""
        plan = self._plan
        start = time.perf_counter()
        async with probing(self._server.port) as delays:
            answers = await closed_loop(self._asker.ask, plan.streams + plan.streams // 2, after(plan.calm))
        begin, until = start + RAMP * plan.calm, start + plan.calm
        rate = sum(begin < answer.ended <= until for answer in answers) / (until - begin)
        return summarise("capacity", rate, answers, delays, (start, until))

    async def _sent(
        self, name: str, rate: float, seconds: float, recovery: tuple[float, float] | None
    ) -> tuple[Phase, list[Phase]]:
        """A phase, and if (rate, slowest first token) of calm are given, the phase of probes after it."""
        start = time.perf_counter()
        async with probing(self._server.port) as delays:
            tasks = await arrive(self._asker.ask, rate, self._rng, after(seconds))
        until = time.perf_counter()
        if recovery is None:
            return summarise(name, rate, await asyncio.gather(*tasks), delays, (start, until)), []
        async with probing(self._server.port) as later:
            probes = await asyncio.gather(
                *await arrive(self._asker.ask, recovery[0], self._rng, after(self._plan.calm))
            )
        later_phase = summarise(f"after {name}", recovery[0], probes, later, (until, time.perf_counter()))
        phase = summarise(
            name,
            rate,
            await asyncio.gather(*tasks),
            delays,
            (start, until),
            _recovery(probes, until, recovery[1]),
        )
        return phase, [later_phase]


def _recovery(probes: list[Answer], end: float, limit: float) -> float:
    """Seconds after `end` at which the last bad probe was sent; 0 if none was bad."""
    bad = [probe.sent - end for probe in probes if (probe.to_first_token or float("inf")) > limit]
    return max(bad, default=0.0)


def summarise(
    name: str,
    rate: float,
    answers: list[Answer],
    delays: list[float],
    window: tuple[float, float],
    recovery: float | None = None,
) -> Phase:
    """Counts and percentiles of one phase; goodput within `window`, less its beginning."""
    right = [answer for answer in answers if answer.outcome is Outcome.RIGHT]
    refused = [answer for answer in answers if answer.outcome is Outcome.REFUSED]
    waits = [int(wait) for answer in refused if (wait := answer.retry_after or "").isdecimal()]
    begin = window[0] + RAMP * (window[1] - window[0])
    tokens = sum(begin <= at < window[1] for answer in right for at in answer.arrivals)
    firsts = [answer.arrivals[0] - answer.sent for answer in right if answer.arrivals]
    gaps = [gap for answer in right for gap in answer.gaps]
    return Phase(
        name=name,
        rate=rate,
        requests=len(answers),
        right=len(right),
        refused=len(refused),
        bare=sum((answer.retry_after or "0") in ("0", "") for answer in refused),
        lost=[
            f"{answer.outcome} {answer.detail}"
            for answer in answers
            if answer.outcome not in (Outcome.RIGHT, Outcome.REFUSED)
        ],
        goodput=tokens / (window[1] - begin),
        first_token=(percentile(firsts, 0.5), percentile(firsts, 0.99), max(firsts, default=0.0)),
        gap=(percentile(gaps, 0.5), percentile(gaps, 0.99)),
        health=(percentile(delays, 0.5), percentile(delays, 0.99)),
        retry_after=(min(waits, default=0), max(waits, default=0)),
        recovery=recovery,
    )


def problems(rounds: list[Round]) -> list[str]:
    """Broken promises."""
    found = []
    for number, one in enumerate(rounds):
        peak = one.phase("capacity").goodput
        found += [f"round {number}: {one.leftovers} afterwards"] * bool(one.leftovers)
        for phase in one.phases:
            where = f"round {number}, {phase.name}"
            found += [f"{where}: {lost}" for lost in phase.lost[:5]]
            found += [f"{where}: {phase.bare} refusals without Retry-After"] * bool(phase.bare)
            if phase.recovery is not None and phase.recovery > MAX_RECOVERY:
                found.append(f"{where}: recovery took {phase.recovery:.1f} s")
            if phase.name in ("10×", "2×") and phase.goodput < MIN_GOODPUT * peak:
                found.append(f"{where}: goodput is {phase.goodput / peak:.0%} of the peak")
    return found


def page(kept: Kept[Round], path: Path) -> None:
    """docs/results/overload.md."""
    rounds = kept.records
    names = [phase.name for phase in rounds[0].phases]
    rows = [_row([one.phase(name) for one in rounds], rounds) for name in names]
    head = (
        *("load", "requests", "per second", "right", "refused", "lost", "goodput, tokens/s", "of peak"),
        *("first token p50", "p99", "between tokens p50", "p99", "/health p99", "Retry-After", "recovery"),
    )
    path.write_text(f"""# Overload

    make overload
    {command_line()}

{__doc__.strip() if __doc__ else ""}

{table(head, rows)}

Requests are summed over {len(rounds)} rounds; the rest is the median of the rounds, with the extremes of goodput's
share and recovery. Times are of right answers only. Lost: neither right nor refused with an error object (a client
waits {kept.options["timeout"]} s). Recovery: from the end of the load to the sending of the last probe that was refused
or waited more than {SLOW:g} times as long for its first token as the slowest calm one.

Broken promises (goodput at least {MIN_GOODPUT:.0%} of the peak, every refusal with Retry-After, none lost, recovery
within {MAX_RECOVERY:g} s, nothing held afterwards):

{verdict(problems(rounds))}

{kept.provenance()}
""")


def _row(phases: list[Phase], rounds: list[Round]) -> list[object]:
    def middle(values: list[float]) -> str:
        return milliseconds(statistics.median(values))

    share = Spread.of_ratios(
        [phase.goodput for phase in phases], [one.phase("capacity").goodput for one in rounds]
    )
    recoveries = [phase.recovery for phase in phases if phase.recovery is not None]
    waits = [wait for phase in phases for wait in phase.retry_after if wait]
    return [
        phases[0].name,
        f"{sum(phase.requests for phase in phases):,}",
        f"{statistics.median(phase.rate for phase in phases):.1f}",
        f"{sum(phase.right for phase in phases):,}",
        f"{sum(phase.refused for phase in phases):,}",
        sum(len(phase.lost) for phase in phases),
        f"{statistics.median(phase.goodput for phase in phases):.0f}",
        share,
        middle([phase.first_token[0] for phase in phases]),
        middle([phase.first_token[1] for phase in phases]),
        middle([phase.gap[0] for phase in phases]),
        middle([phase.gap[1] for phase in phases]),
        middle([phase.health[1] for phase in phases]),
        f"{min(waits)} to {max(waits)} s" if waits else "",
        f"{Spread.of(recoveries)} s" if recoveries else "",
    ]

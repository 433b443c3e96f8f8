"""Latency and throughput of OpenAI servers, one or several by turns, over HTTP.

Servers take turns like the modes of `benchmarks.decode`, so that whatever else the machine does hits all alike and
ratios can be paired by round.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.http_load import Load, Reply, Target, send

MIN_ROUNDS = 2
WARM_UP_TOKENS = 2


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """How often to send each load.

    Attributes:
        time_limit: seconds for one load together; when it is over no round is started beyond the second.
    """

    loads: tuple[Load, ...]
    rounds: int = 5
    time_limit: float = 300.0


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One server under one load; lists have a value per round, means over its streams.

    Attributes:
        prompt_tokens, completion_tokens: by the server's count, of one request (the largest).
        first_token_seconds: from sending to the first event.
        per_token_seconds: from the first to the last event ÷ tokens between them; empty for answers of one token.
        tokens_per_second: made by all streams together ÷ time from sending to the last event.
        gap_p50, gap_p99: seconds between events, of all rounds together; None for answers of one token.
        tokens_per_event: 1 where every event holds one token.
    """

    target: str
    load: Load
    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: list[float]
    per_token_seconds: list[float]
    tokens_per_second: list[float]
    gap_p50: float | None
    gap_p99: float | None
    tokens_per_event: float


@dataclass(frozen=True, slots=True)
class ServerReport:
    """Everything one run found out."""

    plan: ServerPlan
    rows: list[ServerRow]


@dataclass(frozen=True, slots=True)
class _Section:
    """The answers to one load, sent once."""

    replies: list[Reply]

    @property
    def to_first_token(self) -> float:
        return float(np.mean([reply.to_first_token for reply in self.replies]))

    @property
    def per_token(self) -> float | None:
        times = [reply.per_token for reply in self.replies if reply.per_token is not None]
        return float(np.mean(times)) if times else None

    @property
    def tokens(self) -> int:
        return sum(reply.completion_tokens for reply in self.replies)

    @property
    def throughput(self) -> float:
        begin = min(reply.sent for reply in self.replies)
        return self.tokens / (max(reply.arrivals[-1] for reply in self.replies) - begin)


Turn = Callable[[Target], AbstractContextManager[object]]
"""Surrounds a server's turn."""


def measure_servers(
    targets: Sequence[Target], plan: ServerPlan, turn: Turn = lambda _: nullcontext()
) -> ServerReport:
    """Send every load to every server by turns.

    Args:
        turn: surrounds everything that is sent to a server in one turn.

    Raises:
        BenchmarkError: a server fails or refuses, or two have one name.
    """
    names = [target.name for target in targets]
    if len(set(names)) != len(names):
        raise BenchmarkError(f"servers need different names: {', '.join(names)}")
    rows = [row for load in plan.loads for row in _rows(targets, load, plan, turn)]
    return ServerReport(plan, rows)


def _rows(targets: Sequence[Target], load: Load, plan: ServerPlan, turn: Turn) -> list[ServerRow]:
    warm_up = replace(load, max_tokens=WARM_UP_TOKENS)
    for target in targets:
        with turn(target):
            send(target, warm_up, seed=-1)
    sections: dict[str, list[_Section]] = {target.name: [] for target in targets}
    deadline = time.perf_counter() + plan.time_limit
    for index in range(plan.rounds):
        if index >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
        # Each goes first in every other round.
        for target in targets if index % 2 == 0 else reversed(targets):
            with turn(target):
                sections[target.name].append(_Section(send(target, load, seed=index)))
    return [_row(name, load, own) for name, own in sections.items()]


def _row(name: str, load: Load, sections: list[_Section]) -> ServerRow:
    replies = [reply for section in sections for reply in section.replies]
    gaps = [gap for reply in replies if reply.completion_tokens > 1 for gap in reply.gaps]
    return ServerRow(
        target=name,
        load=load,
        prompt_tokens=max(reply.prompt_tokens for reply in replies),
        completion_tokens=max(reply.completion_tokens for reply in replies),
        first_token_seconds=[section.to_first_token for section in sections],
        per_token_seconds=[section.per_token for section in sections if section.per_token is not None],
        tokens_per_second=[section.throughput for section in sections],
        gap_p50=float(np.percentile(gaps, 50)) if gaps else None,
        gap_p99=float(np.percentile(gaps, 99)) if gaps else None,
        tokens_per_event=sum(section.tokens for section in sections)
        / sum(len(reply.arrivals) for reply in replies),
    )

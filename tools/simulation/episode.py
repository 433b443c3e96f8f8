"""One setting, one engine, many requests: from the first arrival until everything has been given back."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from engine.core import EngineCore
from engine.engine_loop import run_loop
from engine.messages import Abort, FromEngine, Request, Shutdown, StepOutputs, ToEngine
from scheduler.invariants import check, check_idle
from scheduler.scheduler import Scheduler
from scheduler.sequence import Sequence
from tools.simulation.curses import Curses
from tools.simulation.expectation import Expectation
from tools.simulation.failure import (
    HiccupError,
    InjectedFaultError,
    PanicException,
    SimulationError,
    require,
)
from tools.simulation.hash_runner import HashRunner, make_core
from tools.simulation.memory import Memory, PoisoningBlockPool
from tools.simulation.setting import Setting
from tools.simulation.workload import Client, Workload, again

CONTENT_CHECK_EVERY = 16  # turns
MISCHIEF = 0.01  # per turn
COMES_BACK = 0.7  # share of clients that ask again after a restart

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Totals:
    """What happened; `longest_wait` is the largest share of the allowed turns that a first-ranked request took."""

    episodes: int = 0
    steps: int = 0
    rows: int = 0
    requests: int = 0
    finished: int = 0
    tokens: int = 0
    aborts: int = 0
    preemptions: int = 0
    evictions: int = 0
    restarts: int = 0
    exceptions: int = 0
    hiccups: int = 0
    cached_tokens: int = 0
    restored: int = 0
    recomputed: int = 0
    longest_wait: float = 0.0

    def add(self, other: "Totals") -> None:
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            joined = max(mine, theirs) if field.name == "longest_wait" else mine + theirs
            setattr(self, field.name, joined)


@dataclass(frozen=True, slots=True)
class Tenure:
    """A sequence has been first in rank since a turn, and then had been preempted so often."""

    sequence: Sequence
    since: int
    preemptions: int


class Episode:
    """Drives the real engine loop; each turn of it is: messages in, a step, outputs checked, books checked."""

    def __init__(self, setting: Setting, rng: random.Random) -> None:
        self.setting = setting
        self.rng = rng
        self.workload = Workload(setting, rng)
        self.clients: dict[str, Client] = {}
        self.messages: list[ToEngine] = []
        self.totals = Totals(episodes=1)
        self.turn = 0
        self.first_ranked: Tenure | None = None
        self.curses: Curses
        self.core: EngineCore
        self.memory: Memory

    def run(self) -> Totals:
        """Run to the end.

        Raises:
            WrongResultError, InvariantError: or whatever else the engine raises: it has a bug.
        """
        while True:
            self.curses = Curses()
            self.core, self.memory = make_core(self.setting, self._fault, self.curses)
            self.first_ranked = None
            try:
                run_loop(self.core, self._receive, self._send, self._beat)
            except InjectedFaultError:
                self._count()
                self._restart()
                continue
            check_idle(self.core.scheduler)
            self._count()
            return self.totals

    @property
    def scheduler(self) -> Scheduler:
        return self.core.scheduler

    def _receive(self, timeout: float) -> list[ToEngine]:
        self.turn += 1
        messages, self.messages = self.messages, []
        drains = self.totals.steps + self.scheduler.totals.steps >= self.setting.steps
        if not drains:
            for client in self.workload.arrivals(self.turn, len(self.clients)):
                messages.append(self._enter(client))
        messages += self._leave()
        if drains and not self.clients and not messages:
            return [Shutdown()]
        return messages

    def _enter(self, client: Client) -> Request:
        request = client.expectation.request
        self.clients[request.request_id] = client
        if client.expectation.curse is not None:
            self.curses.by_request[request.request_id] = client.expectation.curse
        self.totals.requests += 1
        if self.first_ranked is not None and request.priority < self.first_ranked.sequence.priority:
            self.first_ranked = (
                None  # overtaken, also by one that comes and ends within a turn and is never seen
            )
        return request

    def _leave(self) -> list[ToEngine]:
        """Aborts due; now and then one of a request that has long ended."""
        gone = [name for name, client in self.clients.items() if client.leaves_at == self.turn]
        for name in gone:
            del self.clients[name]
        self.totals.aborts += len(gone)
        if self.rng.random() < MISCHIEF:
            past = str(self.rng.randint(1, self.workload.num_requests + 1))
            gone += [] if past in self.clients else [past]
        return [Abort(gone)] if gone else []

    def _send(self, message: FromEngine) -> None:
        assert isinstance(message, StepOutputs)
        for output in message.outputs:
            name = output.request_id
            require(name in self.clients, f"request {name} got an output after its end")
            client = self.clients[name]
            try:
                client.expectation.take(output)
            except Exception as error:
                error.add_note(f"request {client.expectation.request}")
                raise
            self.totals.tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self.totals.finished += output.finish_reason != "error"
                self._end(name)
            elif client.leaves_after == client.expectation.num_outputs:
                client.leaves_at = self.turn + 1
        stats = message.stats
        require(
            stats.running + stats.waiting == len(self.clients), "the engine forgot a request, or keeps one"
        )
        require(self.curses.struck.isdisjoint(self.clients), f"of {self.curses.struck} some go on")
        require(stats.isolated_errors_total == self.curses.total, "errors are not counted right")

    def _end(self, name: str) -> None:
        expectation = self.clients.pop(name).expectation
        if expectation.is_struck:
            self.curses.struck.remove(name)
            self.totals.exceptions += 1
        self.workload.remember(expectation.tokens[: expectation.length].tolist())

    def _beat(self) -> None:
        check(self.scheduler)
        self._check_progress()
        if self.turn % CONTENT_CHECK_EVERY == 0:
            for sequence in self.scheduler.running:
                expectation = self.clients[sequence.sequence_id].expectation
                _check_contents(sequence, expectation, self.scheduler, self.memory)
        if self.rng.random() < MISCHIEF:
            self._mischief()

    def _check_progress(self) -> None:
        """Whoever is first in rank must finish within so many turns, whatever comes.

        While it waits nobody else is admitted, so those that run compute each of their rows at most once; once it runs,
        it is never preempted, and others delay it only by rows they have ready.
        """
        queues = (self.scheduler.running, self.scheduler.waiting)
        first = min((queue[0] for queue in queues if queue), key=lambda s: s.rank, default=None)
        if first is None:
            self.first_ranked = None
            return
        if self.first_ranked is None or self.first_ranked.sequence is not first:
            self.first_ranked = Tenure(first, self.turn, first.num_preemptions)
        tenure = self.first_ranked
        require(first.num_preemptions == tenure.preemptions, "the first-ranked request was preempted")
        setting = self.setting
        rows = setting.layout.num_loops * setting.max_model_len
        bound = (setting.limits.max_num_seqs + 2) * rows
        waited = self.turn - tenure.since
        self.totals.longest_wait = max(self.totals.longest_wait, waited / bound)
        require(waited <= bound, f"request {first.sequence_id} has been first for {waited} turns")

    def _mischief(self) -> None:
        """What may happen to the prefix cache at any time."""
        pool = self.scheduler.blocks
        assert isinstance(pool, PoisoningBlockPool)
        if self.rng.random() < 0.1:
            pool.forget_all()
        elif pool.evictable:
            pool.evict_one()

    def _fault(self, names: list[str], place: str) -> None:
        if self.rng.random() * 2 * self.setting.fault_every < 1:
            raise InjectedFaultError
        for name in names:
            self.curses.meet(name, place)
        if len(names) > 1 and self.rng.random() * 2 * self.setting.hiccup_every < 1:
            self.totals.hiccups += 1
            raise HiccupError  # of a single sequence it would be an error that ends it

    def _restart(self) -> None:
        self.totals.restarts += 1
        old, self.clients = self.clients, {}
        for client in old.values():
            if self.rng.random() < COMES_BACK:
                self.messages.append(self._enter(again(client, self.setting)))

    def _count(self) -> None:
        """Book what one engine did."""
        totals, scheduler = self.totals, self.scheduler
        pool = scheduler.blocks
        assert isinstance(pool, PoisoningBlockPool)
        totals.steps += scheduler.totals.steps
        totals.rows += sum(self.core.rows_total)
        totals.preemptions += scheduler.totals.preemptions
        totals.cached_tokens += scheduler.totals.prefix_hit_tokens
        totals.evictions += pool.evictions
        runner = self.core.model.runner
        assert isinstance(runner, HashRunner)
        totals.restored += runner.restored
        totals.recomputed += runner.recomputed


def _check_contents(
    sequence: Sequence, expectation: Expectation, scheduler: Scheduler, memory: Memory
) -> None:
    """Whatever of a sequence can be found by others is its tenant's and exact: K/V, and H if a later loop needs it."""
    expectation.compute()
    tenant = expectation.request.tenant
    size, snapshots = sequence.layout.block_size, sequence.layout.num_loops - 1
    for loop, table in enumerate(sequence.tables):
        for index, block in enumerate(table.blocks, table.first):
            if scheduler.blocks.keys[block] is None:
                continue
            require(scheduler.blocks.tenants[block] == tenant, "a block is cached as another tenant's")
            start, stop = index * size, (index + 1) * size
            exact = np.array_equal(memory.cache[block].T, expectation.keys[loop, :, start:stop])
            require(exact, f"block {index} of loop {loop} is in the prefix cache with other content")
            if loop < snapshots:
                same = memory.block_hidden[block] == expectation.hidden[loop, stop - 1]
                require(bool(same), f"the H beside block {index} of loop {loop} is another")


def seeded(seed: int, number: int) -> random.Random:
    """All that an episode does is drawn from this; the setting first."""
    return random.Random(f"{seed}/{number}")


def run_episode(seed: int, number: int) -> Totals:
    """Episode `number` of a seed.

    Raises:
        SimulationError: something was wrong.
    """
    rng = seeded(seed, number)
    setting = Setting.draw(rng)
    episode = Episode(setting, rng)
    try:
        return episode.run()
    except (Exception, PanicException) as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        raise SimulationError(
            f"{type(error).__name__}: {error}\n{notes}\nturn {episode.turn} of {setting}\n"
            f"again: python -m tools.simulation --seed {seed} --episode {number}"
        ) from error


def run_seed(seed: int, steps: int, after: Callable[[Totals], None] = lambda _: None) -> Totals:
    """Episodes of one seed until at least `steps` steps are done.

    Raises:
        SimulationError: something was wrong.
    """
    totals, number = Totals(), 0
    while totals.steps < steps:
        totals.add(run_episode(seed, number))
        number += 1
        after(totals)
    return totals

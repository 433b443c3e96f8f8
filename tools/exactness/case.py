"""One case: a crowd on one engine, then each of its requests alone on an engine of its own, compared bit for bit."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from engine.core import EngineCore
from engine.loading import LoadedModel
from engine.messages import Request, RequestOutput
from scheduler.invariants import check, check_idle
from tools.exactness.setting import Setting
from tools.exactness.situations import Compared, Totals
from tools.exactness.watching import RememberingBlockPool, Story, watched
from tools.exactness.workload import MISCHIEF, Visit, Workload
from tools.simulation.failure import SimulationError, WrongResultError, require

MOST_STEPS = 20_000


class Crowd:
    """Drives one engine until all requests have come and gone."""

    def __init__(self, model: LoadedModel, setting: Setting, rng: random.Random) -> None:
        self.core, self.runner = watched(model, poisoned=True)
        self.setting = setting
        self.rng = rng
        self.workload = Workload(rng, setting, model.config.vocab_size, model.scheduler.layout.num_loops)
        self.visits: dict[str, Visit] = {}
        self.arrived: dict[str, int] = {}

    def run(self, guest: Request | None = None) -> None:
        """Let everybody come.

        Args:
            guest: comes in the middle, beside those that are drawn.

        Raises:
            InvariantError, WrongResultError: the engine has a bug.
        """
        coming = self.setting.num_requests
        guest_at = self.rng.randrange(coming)
        step = next_at = 0
        while coming > 0 or self.core.has_work:
            while coming > 0 and step >= next_at:
                coming -= 1
                if guest is not None and coming == guest_at:
                    self._enter(Visit(guest, None), step)
                self._enter(self.workload.visit(), step)
                next_at = step + self.workload.pause()
            self._leave(step)
            self._step()
            step += 1
            require(step < MOST_STEPS, "no end in sight")
        check_idle(self.core.scheduler)

    def _enter(self, visit: Visit, step: int) -> None:
        name = visit.request.request_id
        self.visits[name], self.arrived[name] = visit, step
        self.runner.stories[name] = Story()
        self.core.add(visit.request)

    def _leave(self, step: int) -> None:
        for name, active in list(self.core.active.items()):
            visit = self.visits[name]
            if visit.leaves_after is not None and step - self.arrived[name] >= visit.leaves_after:
                was_running = active.sequence in self.core.scheduler.running
                self.core.abort(name)
                for other in self.core.active if was_running else ():
                    self.runner.stories[other].abandoned += 1

    def _step(self) -> None:
        for output in self.core.step():
            story = self.runner.stories[output.request_id]
            story.outputs.append(output)
            if story.ended:
                prompt = self.visits[output.request_id].request.prompt_token_ids
                self.workload.remember(prompt + story.tokens)
        check(self.core.scheduler)
        pool = self.core.scheduler.blocks
        assert isinstance(pool, RememberingBlockPool)
        if self.rng.random() < MISCHIEF and pool.evictable:
            pool.evict_one()


def run_alone(model: LoadedModel, request: Request) -> Story:
    """The request and nothing else, on a fresh engine, the whole prompt in one pass."""
    core, runner = watched(model, poisoned=False)
    story = runner.stories[request.request_id] = Story()
    core.add(request)
    _drain(core, story)
    return story


def _drain(core: EngineCore, story: Story) -> None:
    for _ in range(MOST_STEPS):
        if not core.has_work:
            return
        story.outputs += core.step()
    raise WrongResultError("a request alone has no end")


def compare(crowd: Story, alone: Story) -> None:
    """Everything that a request got in the crowd is what it gets alone, to the bit.

    Of a request that was aborted, what it had got until then.

    Raises:
        WrongResultError: saying what differs.
    """
    for number, logits in enumerate(crowd.logits):
        broken = int(np.isnan(logits).sum())
        require(broken == 0, f"{broken} logits behind token {number} are NaN: it read what belongs to nobody")
        require(
            number < len(alone.logits), f"there is a token {number}, but alone there are {len(alone.logits)}"
        )
        truth = alone.logits[number]
        if logits.tobytes() != truth.tobytes():
            many, most = int((logits != truth).sum()), float(np.abs(logits - truth).max())
            raise WrongResultError(f"{many} logits behind token {number} differ, by up to {most:.3g}")
    require(crowd.tokens == alone.tokens[: len(crowd.tokens)], f"tokens {crowd.tokens}, alone {alone.tokens}")
    for mine, theirs in zip(crowd.outputs, alone.outputs, strict=False):
        require(_essence(mine) == _essence(theirs), f"output {mine}, alone {theirs}")
    if crowd.ended:
        require(len(crowd.outputs) == len(alone.outputs), "it ended at another token than alone")


def _essence(output: RequestOutput) -> RequestOutput:
    """Without what the prefix cache gave."""
    return msgspec.structs.replace(output, cached_tokens=0, request_id="")


def seeded(seed: int, number: int) -> random.Random:
    """All that a case does is drawn from this; the setting first."""
    return random.Random(f"exactness/{seed}/{number}")


def run_case(seed: int, number: int) -> Totals:
    """Case `number` of a seed.

    Raises:
        SimulationError: something was wrong; the text says how to see it again.
    """
    rng = seeded(seed, number)
    setting = Setting.draw(rng)
    try:
        return _run(setting, rng)
    except Exception as error:
        raise failure(
            error, f"{setting}\nagain: python -m tools.exactness --seed {seed} --case {number}"
        ) from error


def failure(error: Exception, where: str) -> SimulationError:
    """What to raise for whatever went wrong."""
    return SimulationError(
        "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()), where])
    )


def _run(setting: Setting, rng: random.Random) -> Totals:
    with TemporaryDirectory(prefix="loopserve-exactness-") as directory:
        model, fresh = setting.load(Path(directory), setting.num_requests)
    crowd = Crowd(model, setting, rng)
    crowd.run()
    totals = Totals(cases=1)
    alone: dict[bytes, Story] = {}
    for name, visit in crowd.visits.items():
        request, story = visit.request, crowd.runner.stories[name]
        what = msgspec.msgpack.encode((request.prompt_token_ids, request.params, request.num_loops))
        if what not in alone:
            alone[what] = run_alone(fresh.pop(), request)
        try:
            compare(story, alone[what])
        except WrongResultError as error:
            error.add_note(f"request {request}")
            raise
        totals.count(Compared(setting, request, story))
    scheduler, pool = crowd.core.scheduler, crowd.core.scheduler.blocks
    assert isinstance(pool, RememberingBlockPool)
    totals.steps = scheduler.totals.steps
    totals.preemptions = scheduler.totals.preemptions
    totals.evictions = pool.evictions
    totals.most_rows = crowd.runner.most_rows
    return totals

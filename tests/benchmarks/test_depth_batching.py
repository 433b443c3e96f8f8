"""Lock-step and depth batching on a tiny model: the same tokens, and passes as they were meant to be."""

import itertools
from dataclasses import replace

import pytest

from benchmarks import depth_batching
from benchmarks.depth_batching import (
    Load,
    LockStepScheduler,
    compare,
    cores_of,
    loads,
    random_config,
    random_rank,
    run,
    table,
)
from benchmarks.errors import BenchmarkError
from engine.core import EngineCore
from engine.options import EngineOptions
from scheduler.invariants import check, check_idle

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
}


def cores(loops: int = 3, offset: int = 0) -> tuple[EngineCore, EngineCore]:
    config = random_config(loops)
    config = replace(config, **TINY, loops=replace(config.loops, offset=offset))
    options = EngineOptions(
        model_dir="",
        max_model_len=256,
        max_num_seqs=8,
        max_rows_per_step=32,
        block_size=4,
        prefix_caching=False,
        kv_cache_memory=8 << 20,
    )
    return cores_of(random_rank(config, options))


@pytest.mark.parametrize("load", loads(3), ids=lambda load: load.name)
def test_all_rows_of_a_lock_step_pass_are_of_one_loop(load: Load) -> None:
    _, core = cores()
    scheduler = core.scheduler
    assert isinstance(scheduler, LockStepScheduler)
    schedule, seen = scheduler.schedule, []

    def watched():
        check(scheduler)
        plan = schedule()
        assert plan.segments, "a pass of nothing"
        seen.append({segment.loop for segment in plan.segments})
        return plan

    scheduler.schedule = watched  # type: ignore[method-assign]
    run(core, load, seed=0, pass_seconds=0.001)
    check_idle(scheduler)
    assert {len(loops) for loops in seen} == {1}
    order = [next(iter(loops)) for loops in seen]
    assert all(after in (before + 1, 0) for before, after in itertools.pairwise(order))


def test_both_give_the_same_tokens_and_what_is_compared_is_counted() -> None:
    depth, lock_step = cores()
    start, _, _, _, budgets = loads(3)
    same, mixed = (compare(depth, lock_step, load, rounds=2) for load in (start, budgets))
    assert same.ratio(lambda one: one.passes).median == 1.0
    assert mixed.ratio(lambda one: one.passes).high < 1.0
    assert [one.rows for one in mixed.depth] == [one.rows for one in mixed.lock_step]
    cells = table([same, mixed])
    assert [row[0] for row in cells.rows] == [start.name, budgets.name]
    assert {len(row) for row in cells.rows} == {len(cells.header)}


def test_other_tokens_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    depth, lock_step = cores()

    def wrong(core: EngineCore, *arguments, **named):
        outcome = run(core, *arguments, **named)
        if core is lock_step:
            outcome.tokens["0"][0] += 1
        return outcome

    monkeypatch.setattr(depth_batching, "run", wrong)
    with pytest.raises(BenchmarkError, match="other tokens"):
        compare(depth, lock_step, loads(3)[0], rounds=1)


@pytest.mark.parametrize(("loops", "offset"), [(1, 0), (3, 1)])
def test_models_without_a_lock_step_are_refused(loops: int, offset: int) -> None:
    with pytest.raises(BenchmarkError, match="offset of 0"):
        cores(loops, offset)

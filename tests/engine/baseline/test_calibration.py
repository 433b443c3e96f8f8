"""Calibration: what it measures, in which memory, and that nothing else can tell that it was there."""

import logging
from typing import Any

import pytest
import torch

import engine.baseline.baseline as baseline_module
from engine.baseline.baseline import Baseline
from engine.baseline.calibration import MOST_PAIRS, ROUNDS
from engine.baseline.grid import Point, points_by_worth
from engine.baseline.synthetic import SyntheticCrowds
from engine.core import EngineCore
from engine.messages import Calibrated
from engine.row_batch import build_row_batch
from scheduler.block_pool import BlockPool
from scheduler.invariants import check, check_idle
from scheduler.step_plan import StepPlan
from tests.engine.baseline.timed import rows_cost, timed_core
from tests.engine.harness import Checkpoint, Driver, checkpoint

TWO = checkpoint(seed=1)
THREE = checkpoint(seed=2, plt_num_loops=3, plt_window_size=[5, 0])
ONE = checkpoint(seed=3, plt_num_loops=1)
NO_OFFSET = checkpoint(seed=4, plt_clp_shift=0)


def books(core: EngineCore) -> tuple[Any, ...]:
    """Everything that the scheduler and the prefix cache know, in order."""
    pool = core.scheduler.blocks
    return (
        list(pool.free),
        list(pool.refs),
        list(pool.keys),
        dict(pool.by_key),
        list(pool.evictable),
        list(core.scheduler.carries.free),
        repr(core.scheduler.totals),
    )


def calibrated(core: EngineCore) -> Calibrated:
    """The result that waits to be told, or the one that comes in the end."""
    for _ in range(10_000):
        if (result := core.calibrate()) is not None:
            return result
    raise AssertionError("no end in sight")


@pytest.mark.parametrize("model", [TWO, THREE], ids=["two loops", "three loops"])
def test_every_crowd_that_fits_is_timed_both_ways(model: Checkpoint) -> None:
    core, timed = timed_core(model, calibration_time=1000, kv_cache_memory=64 << 20)
    loops = core.scheduler.layout.num_loops
    result = calibrated(core)
    assert {Point(cell.sequences, cell.context) for cell in result.cells} == set(points_by_worth(4, 512))
    assert result.measured == len(result.cells)
    assert result.seconds == pytest.approx(timed.now)
    for cell in result.cells:
        assert cell.pairs == ROUNDS - 1
        assert cell.parallel_seconds == pytest.approx(0.010 + 0.001 * loops * cell.sequences)
        assert cell.sequential_seconds == pytest.approx(loops * (0.010 + 0.001 * cell.sequences))
        assert cell.ratio == pytest.approx(cell.sequential_seconds / cell.parallel_seconds)
    assert not core.calibrating
    assert core.calibrate() is None


def test_by_turns_each_way_goes_first() -> None:
    _core, timed = timed_core(TWO, calibration_time=1000, max_num_seqs=1, max_model_len=8)
    per_pair = [
        [plan.num_rows for plan in timed.plans[start : start + 4]] for start in range(0, len(timed.plans), 4)
    ]
    assert per_pair[:4] == [[2, 2, 1, 1], [2, 1, 1, 2]] * 2, "an untimed pass, then both ways"
    assert len(per_pair) == ROUNDS


def test_short_pairs_are_measured_several_times_in_a_row_and_a_hiccup_does_not_matter() -> None:
    hiccups = iter([0.0, 0.0, 0.0, 0.0, 9.0])

    def cost(plan: StepPlan) -> float:
        return 0.0001 * (10 + plan.num_rows) + next(hiccups, 0.0)

    core, timed = timed_core(TWO, calibration_time=1000, cost=cost, max_num_seqs=1, max_model_len=8)
    sizes = [plan.num_rows for plan in timed.plans]
    assert sizes[:7] == [2, 2, 1, 1, 1, 1, 2]
    cell = calibrated(core).cells[0]
    assert cell.ratio == pytest.approx(2 * 11 / 12)
    # The hiccup cut the first visit short.
    assert cell.pairs == 2 + MOST_PAIRS * (ROUNDS - 1) - 1
    assert len(sizes) == ROUNDS + 3 * (cell.pairs + 1)


def test_the_first_pair_of_a_crowd_does_not_count_if_there_are_others() -> None:
    slow_start = iter([5.0] * 4)

    def cost(plan: StepPlan) -> float:
        return next(slow_start, 0.0) + rows_cost(plan)

    core, _ = timed_core(TWO, calibration_time=1000, cost=cost, max_num_seqs=1, max_model_len=8)
    assert calibrated(core).cells[0].ratio == pytest.approx(2 * 0.011 / 0.012)


def test_the_budget_ends_it_between_pairs_and_the_first_pair_is_always_done() -> None:
    core, timed = timed_core(TWO, calibration_time=1e-6)
    result = calibrated(core)
    assert [(cell.sequences, cell.context, cell.pairs) for cell in result.cells] == [(1, 128, 1)]
    assert len(timed.plans) == 4
    core, timed = timed_core(TWO, calibration_time=0.2)
    assert 0.2 <= calibrated(core).seconds < 0.3


def test_off_means_off() -> None:
    core, timed = timed_core(TWO)
    assert not timed.plans
    assert not core.calibrating
    assert core.calibrate() is None


@pytest.mark.parametrize("model", [ONE, NO_OFFSET], ids=["one loop", "no offset"])
def test_where_both_executions_are_one_there_is_nothing_to_calibrate(model: Checkpoint) -> None:
    core, timed = timed_core(model, calibration_time=5)
    assert not core.calibrating
    core.begin_calibration()
    assert core.calibrating
    assert calibrated(core) == Calibrated(cells=[], measured=0, seconds=0.0)
    assert not timed.plans


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_seqs": 1},
        {"max_model_len": 1},
        {"max_model_len": 2, "max_num_seqs": 1},
        {"max_model_len": 5, "block_size": 4},
        {"block_size": 1},
        {"block_size": 3, "prefix_caching": False},
        {"block_size": 64},
        {"kv_cache_memory": 300_000},
        {"kv_cache_dtype": "bfloat16"},
        {"execution": "sequential"},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", [TWO, THREE], ids=["two loops", "three loops"])
def test_small_and_odd_engines(model: Checkpoint, options: dict[str, Any]) -> None:
    core, _ = timed_core(model, calibration_time=1000, **options)
    cells = calibrated(core).cells
    assert cells[0].sequences == 1, "the smallest crowd always fits an empty pool"
    assert all(cell.ratio > 0 for cell in cells)
    check_idle(core.scheduler)
    assert books(core) == books(model.core(**options))


def test_at_the_start_with_a_real_clock(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        core = THREE.core(calibration_time=0.5)
    assert "one loop after another takes" in caplog.text
    result = calibrated(core)
    assert result.cells
    assert result.measured == len(result.cells)
    assert all(cell.ratio > 0 and cell.parallel_seconds > 0 for cell in result.cells)
    assert books(core) == books(THREE.core())


def test_an_engine_that_is_started_again_knows_what_the_one_before_found() -> None:
    cells = calibrated(timed_core(TWO, calibration_time=1000)[0]).cells
    core, timed = timed_core(TWO, calibration_time=1000, calibrated=cells)
    assert not timed.plans
    assert not core.calibrating
    Driver(core).one([5, 6, 7], max_tokens=9)
    assert core.stats().decode.passes > 0
    core.begin_calibration()
    assert calibrated(core).measured == len(cells)


def test_ranks_take_part() -> None:
    core = TWO.core(calibration_time=0.2, tensor_parallel_size=2, threads=2)
    assert calibrated(core).cells
    alone = TWO.driver().one([5, 6, 7], max_tokens=6).tokens
    assert Driver(core).one([5, 6, 7], max_tokens=6).tokens == alone


def test_each_sequence_has_blocks_of_its_own_and_every_row_is_written() -> None:
    core = THREE.core(kv_cache_memory=64 << 20)
    runner, scheduler = core.model.runner, core.scheduler
    crowds = SyntheticCrowds(runner, scheduler, scheduler.blocks.num_blocks)
    for point in points_by_worth(4, 512):
        with crowds.crowd(point) as crowd:
            assert crowd is not None
            sequences = crowd.parallel.sequences
            blocks = [b for s in sequences for table in s.tables for b in table.blocks]
            assert len(set(blocks)) == len(blocks) == crowds.blocks_for(point)
            assert len(sequences) == point.sequences
            assert all(scheduler.blocks.refs[block] == 1 for block in blocks)
            batch, logits = build_row_batch(crowd.parallel, scheduler.layout, runner.format)
            assert len(logits) == point.sequences
            assert batch.num_decode_tiles == len(batch.tiles) == point.sequences
            assert (batch.cache_slots >= 0).all()
            assert batch.positions.tolist() == [point.context - 1] * 3 * point.sequences
            rows = [(s.sequence, s.loop) for plan in crowd.sequential for s in plan.segments]
            assert [loop for _, loop in rows] == sorted(loop for _, loop in rows)
            assert len(rows) == 3 * point.sequences
            window = min(point.context, 5 + 1)
            for table in (t for s in sequences for t in s.tables[1:]):
                assert table.first * 4 <= point.context - window
                assert table.stop * 4 >= point.context
            assert torch.isfinite(runner.run(crowd.parallel).logits).all()
    check_idle(scheduler)


def test_what_is_read_was_written_before_once() -> None:
    core = THREE.core()
    runner, scheduler = core.model.runner, core.scheduler
    written: list[int] = []
    write = runner.write_blocks
    runner.write_blocks = lambda blocks: (written.extend(blocks), write(blocks))  # type: ignore[method-assign]
    crowds = SyntheticCrowds(runner, scheduler, scheduler.blocks.num_blocks)
    for _ in range(2):
        with crowds.crowd(Point(2, 128)) as crowd:
            assert crowd is not None
            blocks = {b for s in crowd.parallel.sequences for t in s.tables for b in t.blocks}
            for cache in runner.state.caches:
                for part in (cache.keys, cache.values):
                    assert all(part[block].count_nonzero() > 0 for block in blocks)
    assert sorted(written) == sorted(blocks)


def test_what_is_written_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_module, "SHARE_WRITTEN", 4)
    core, _ = timed_core(TWO, calibration_time=1000)
    pool = core.scheduler.blocks
    assert core.baseline is not None
    written = core.baseline._crowds.written
    smallest = core.baseline._crowds.blocks_for(Point(1, 128))
    assert 0 < len(written) <= max(pool.num_blocks // 4, smallest)
    assert calibrated(core).measured < len(points_by_worth(4, 512)), "the largest crowds don't fit that"


def test_cached_blocks_are_left_alone() -> None:
    """Where the pool is full of cached prefixes there is no room, however little they are worth."""
    core, timed = timed_core(TWO, calibration_time=0.0, kv_cache_memory=600_000)
    driver, number = Driver(core), 0
    while len(core.scheduler.blocks.free) > 30:
        driver.add(str(number), [(number * 31 + i) % 300 + 3 for i in range(100)], max_tokens=2)
        driver.run()
        number += 1
        assert number < 200
    before = books(core)
    timed.plans.clear()
    core.begin_calibration()
    assert calibrated(core).measured == 0
    assert not timed.plans
    assert books(core) == before


def test_between_steps_it_changes_nothing_that_requests_see() -> None:
    def load(driver: Driver) -> None:
        for number, length in enumerate((3, 40, 41, 90)):
            driver.add(
                str(number), [(number * 7 + i) % 300 + 3 for i in range(length)], max_tokens=12, logprobs=2
            )

    plain = THREE.driver()
    load(plain)
    core, _ = timed_core(THREE)
    driver = Driver(core)
    load(driver)
    core.begin_calibration()
    results, turns = [], 0
    while core.has_work:
        driver.step()
        before = books(core)
        results.append(core.calibrate())
        turns += 1
        assert books(core) == before
        check(core.scheduler)
    assert core.calibrating, "the requests ended first, so every step had a pair after it"
    assert not any(results)
    assert driver.answers == plain.run()
    assert core.scheduler.totals.steps == turns
    assert calibrated(core).cells


def test_a_second_calibration_replaces_what_it_measures_and_keeps_the_rest() -> None:
    core, timed = timed_core(TWO, calibration_time=1000, kv_cache_memory=64 << 20)
    first = calibrated(core)
    timed.cost = lambda plan: 0.02
    blocks = core.scheduler.blocks.allocate(len(core.scheduler.blocks.free) - 300)
    assert blocks is not None
    core.begin_calibration()
    second = calibrated(core)
    assert 0 < second.measured < len(second.cells) == len(first.cells)
    new = [cell for cell in second.cells if cell.ratio == pytest.approx(2.0)]
    assert len(new) == second.measured


def test_a_failure_ends_a_calibration_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def cost(plan: StepPlan) -> float:
        if len(plan.sequences) > 1:
            raise RuntimeError("no crowds here")
        return rows_cost(plan)

    core, timed = timed_core(TWO, calibration_time=1000, cost=cost)
    assert "ends with what it has found" in caplog.text
    assert [(cell.sequences, cell.context) for cell in calibrated(core).cells] == [(1, 128)]
    check_idle(core.scheduler)
    timed.cost = rows_cost
    assert Driver(core).one([5, 6], max_tokens=4).tokens == TWO.driver().one([5, 6], max_tokens=4).tokens


def test_a_failure_in_the_first_pair_leaves_no_cell() -> None:
    def cost(plan: StepPlan) -> float:
        if plan.num_rows == 1:
            raise RuntimeError("no single loops here")
        return rows_cost(plan)

    core, _ = timed_core(TWO, calibration_time=1000, cost=cost)
    assert calibrated(core).cells == []
    check_idle(core.scheduler)


def test_a_fatal_failure_is_not_kept_in() -> None:
    def cost(plan: StepPlan) -> float:
        raise torch.AcceleratorError("gone")

    with pytest.raises(torch.AcceleratorError):
        timed_core(TWO, calibration_time=1, cost=cost)


def test_a_crowd_that_breaks_off_gives_its_blocks_back_in_order() -> None:
    core = TWO.core()
    before = books(core)
    crowds = SyntheticCrowds(core.model.runner, core.scheduler, 10_000)
    with pytest.raises(KeyError), crowds.crowd(Point(2, 128)):
        raise KeyError("in between")
    assert books(core) == before


def test_blocks_are_asked_for_only_if_they_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pool: BlockPool) -> int:
        raise AssertionError("evicted")

    monkeypatch.setattr(BlockPool, "_evict", forbidden)
    core, _ = timed_core(TWO, calibration_time=1000, kv_cache_memory=300_000)
    assert calibrated(core).cells


def test_two_beginnings_are_one_calibration() -> None:
    core, _ = timed_core(TWO)
    core.begin_calibration()
    core.calibrate()
    core.begin_calibration()
    assert isinstance(core.baseline, Baseline)
    assert calibrated(core).cells
    assert not core.calibrating


def test_a_core_without_a_baseline_has_nothing_to_say() -> None:
    core = EngineCore(TWO.core().model)
    core.begin_calibration()
    assert not core.calibrating
    assert core.calibrate() is None
    assert core.stats().decode.passes == 0

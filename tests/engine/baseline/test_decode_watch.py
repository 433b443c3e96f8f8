"""What counts as a decode pass, what is added for it, and that shadow passes leave no trace."""

import logging
import random
from typing import Any

import pytest
import torch

from engine.baseline.decode_watch import DecodePass, decode_pass
from engine.core import EngineCore
from engine.errors import EngineDeadError
from engine.messages import DecodeTimes
from engine.runner import StepLogits
from scheduler.loop_layout import LoopLayout
from scheduler.sequence import Sequence
from scheduler.step_plan import CarryRestore, RowSegment, StepPlan
from tests.engine.baseline.timed import TimedRunner, rows_cost, timed_core
from tests.engine.harness import Answer, Checkpoint, Driver, checkpoint

ONE = checkpoint(seed=3, plt_num_loops=1)
TWO = checkpoint(seed=1)
THREE = checkpoint(seed=2, plt_num_loops=3, plt_window_size=[5, 0])
NO_OFFSET = checkpoint(seed=4, plt_clp_shift=0)
LAYOUT = LoopLayout(num_loops=3, offset=1, window=4, num_layers=2, block_size=4)


def rows(sequence: Sequence, *spans: tuple[int, int, int]) -> list[RowSegment]:
    return [RowSegment(sequence, loop, start, stop, [], []) for loop, start, stop in spans]


def sequence(layout: LoopLayout = LAYOUT) -> Sequence:
    return Sequence("x", [1] * 100, 50, layout)


def test_a_row_per_loop_and_sequence_is_a_decode_pass() -> None:
    plan = StepPlan([*rows(sequence(), (0, 9, 10), (1, 9, 10), (2, 9, 10)), *rows(sequence(), (0, 29, 30))])
    assert decode_pass(plan, "parallel") == DecodePass([2, 1, 1], 20.0)


def test_in_a_sequential_pass_the_loops_are_those_of_its_sequences() -> None:
    short = LoopLayout(num_loops=2, offset=1, window=4, num_layers=2, block_size=4)
    plan = StepPlan([*rows(sequence(), (1, 9, 10)), *rows(sequence(short), (0, 29, 30))])
    assert decode_pass(plan, "sequential") == DecodePass([2, 2, 1], 20.0)


def test_without_an_offset_a_sequence_has_one_loop_per_pass_in_either_execution() -> None:
    layout = LoopLayout(num_loops=3, offset=0, window=4, num_layers=2, block_size=4)
    plan = StepPlan(rows(sequence(layout), (1, 9, 10)))
    for execution in ("parallel", "sequential"):
        assert decode_pass(plan, execution) == DecodePass([1], 10.0)


def test_what_else_a_pass_may_hold_makes_it_another_kind() -> None:
    one = sequence()
    decode = rows(one, (0, 9, 10), (1, 9, 10), (2, 9, 10))
    assert decode_pass(StepPlan([*decode, *rows(sequence(), (0, 0, 7))]), "parallel") is None
    assert decode_pass(StepPlan(decode, restores=[CarryRestore(1, 1)]), "parallel") is None
    assert decode_pass(StepPlan(decode, admitted=[one]), "parallel") is None
    assert decode_pass(StepPlan([]), "parallel") is None
    assert decode_pass(StepPlan(decode, preempted=[sequence()]), "parallel") is not None


def times(core: EngineCore) -> DecodeTimes:
    return core.stats().decode


def drive(
    core: EngineCore, timed: TimedRunner, prompts: list[int], **params: Any
) -> list[tuple[StepPlan, bool]]:
    """Run requests to their ends; returns each real pass and whether it was counted."""
    driver, counted = Driver(core), []
    for number, length in enumerate(prompts):
        driver.add(str(number), [(number * 7 + i) % 300 + 3 for i in range(length)], **params)
    while core.has_work:
        before, plans = times(core).passes, len(timed.plans)
        driver.step()
        if len(timed.plans) > plans:
            counted.append((timed.plans[-1], times(core).passes > before))
    return counted


@pytest.mark.parametrize("model", [ONE, TWO, THREE], ids=["one loop", "two loops", "three loops"])
def test_only_decode_passes_move_the_counters_by_what_they_took(model: Checkpoint) -> None:
    core, timed = timed_core(model, calibration_time=1000, kv_cache_memory=64 << 20)
    loops = core.scheduler.layout.num_loops
    counted = drive(core, timed, [3, 150, 40], max_tokens=9)
    assert any(was for _, was in counted)
    assert not all(was for _, was in counted), "prompts are no decode"
    parallel = sequential = 0.0
    for plan, was in counted:
        decodes = all(segment.num_rows == 1 for segment in plan.segments) and not plan.admitted
        assert was == decodes
        if was:
            parallel += rows_cost(plan)
            by_loop = [sum(s.loop == loop for s in plan.segments) for loop in range(loops)]
            sequential += sum(0.010 + 0.001 * number for number in by_loop if number)
    assert times(core).passes == sum(was for _, was in counted)
    assert times(core).parallel_seconds == pytest.approx(parallel)
    assert times(core).sequential_seconds == pytest.approx(sequential, rel=0.02)
    assert times(core).shadow_passes == 0


@pytest.mark.parametrize("model", [TWO, THREE], ids=["two loops", "three loops"])
def test_in_sequential_execution_the_roles_are_swapped(model: Checkpoint) -> None:
    core, timed = timed_core(model, calibration_time=1000, kv_cache_memory=64 << 20, execution="sequential")
    loops = core.scheduler.layout.num_loops
    counted = drive(core, timed, [3, 3], max_tokens=30)
    took = sum(rows_cost(plan) for plan, was in counted if was)
    assert times(core).sequential_seconds == pytest.approx(took)
    # Both decode from the start to the end, so each pass is of two sequences.
    ratio = loops * 0.012 / (0.010 + 0.001 * 2 * loops)
    assert times(core).parallel_seconds == pytest.approx(took / ratio, rel=0.02)


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_loop_budgets_count_with_the_loops_that_they_have(execution: str) -> None:
    core, timed = timed_core(THREE, calibration_time=1000, kv_cache_memory=64 << 20, execution=execution)
    drive(core, timed, [3, 3], max_tokens=9, loops=1)
    alone = times(core)
    assert alone.passes > 0
    assert alone.parallel_seconds == pytest.approx(alone.sequential_seconds)
    drive(core, timed, [3, 3], max_tokens=9, loops=2)
    some = times(core)
    ratio = (some.sequential_seconds - alone.sequential_seconds) / (
        some.parallel_seconds - alone.parallel_seconds
    )
    assert ratio == pytest.approx(2 * 0.012 / 0.014, rel=0.02)


def test_without_a_calibration_nothing_is_counted_but_passes_of_one_loop() -> None:
    core, timed = timed_core(TWO)
    drive(core, timed, [5], max_tokens=6)
    assert times(core) == DecodeTimes()
    drive(core, timed, [5], max_tokens=6, loops=1)
    assert times(core).passes > 0


def test_without_an_offset_both_executions_are_one() -> None:
    core, timed = timed_core(NO_OFFSET, calibration_time=5, shadow_steps=1)
    drive(core, timed, [5, 9], max_tokens=6)
    assert times(core).passes > 0
    assert times(core).shadow_passes == 0
    assert times(core).parallel_seconds == times(core).sequential_seconds


def test_a_pass_that_failed_for_somebody_is_not_counted() -> None:
    core, timed = timed_core(TWO, calibration_time=5)
    driver = Driver(core)
    for name in ("good", "bad"):
        driver.add(name, [5, 6, 7], max_tokens=8)
    while len(driver.answers["bad"].tokens) < 3:
        driver.step()
    before = times(core)

    def cost(plan: StepPlan) -> float:
        if any(sequence.sequence_id == "bad" for sequence in plan.sequences):
            raise RuntimeError("bad")
        return rows_cost(plan)

    timed.cost = cost
    driver.step()
    assert times(core) == before
    assert driver.answers["bad"].finish_reason == "error"
    driver.step()
    assert times(core).passes == before.passes + 1


def test_every_so_many_decode_passes_one_runs_both_ways() -> None:
    core, timed = timed_core(THREE, calibration_time=1000, shadow_steps=4, kv_cache_memory=64 << 20)
    timed.plans.clear()
    driver = Driver(core)
    driver.add("only", [5, 6, 7], max_tokens=22)
    driver.run()
    found, sizes = times(core), [plan.num_rows for plan in timed.plans]
    assert found.shadow_passes == found.passes // 4 > 0
    assert "1, 1, 1, 3" in str(sizes), "the shadow comes first"
    assert str(sizes).count("1, 1, 1, 3") == found.shadow_passes
    assert found.shadow_parallel_seconds == pytest.approx(found.shadow_passes * 0.013)
    assert found.shadow_sequential_seconds == pytest.approx(found.shadow_passes * 3 * 0.011)


def test_shadow_passes_alone_are_enough_for_a_ratio_and_correct_one() -> None:
    core, timed = timed_core(TWO, shadow_steps=1)
    drive(core, timed, [5, 9], max_tokens=12)
    assert times(core).passes > 0
    shadow = times(core).shadow_sequential_seconds / times(core).shadow_parallel_seconds
    assert times(core).sequential_seconds / times(core).parallel_seconds == pytest.approx(shadow, rel=0.05)


def test_in_sequential_execution_there_is_no_shadow() -> None:
    core, timed = timed_core(TWO, calibration_time=5, shadow_steps=1, execution="sequential")
    drive(core, timed, [5, 9], max_tokens=12)
    assert times(core).passes > 0
    assert times(core).shadow_passes == 0


def crowd(driver: Driver, seed: int, calibrate: bool = False) -> dict[str, Answer]:
    """Requests of all kinds that come while others run; some share prefixes, some are aborted."""
    draw = random.Random(seed)
    shared = [draw.randrange(3, 300) for _ in range(40)]
    loops = driver.core.scheduler.layout.num_loops
    for number in range(9):
        prompt = shared[: draw.choice([0, 8, 24, 40])] + [
            draw.randrange(3, 300) for _ in range(draw.randrange(1, 30))
        ]
        every = draw.random() < 0.2
        driver.add(
            str(number),
            prompt,
            loops=draw.choice([None, *range(1, loops + 1)]),
            max_tokens=draw.randrange(1, 25),
            temperature=draw.choice([0.0, 1.0]),
            seed=number,
            logprobs=2,
            prompt_logprobs=1 if every else None,
            loop_logprobs=draw.random() < 0.3,
        )
        for _ in range(draw.randrange(6)):
            if driver.core.has_work:
                driver.step()
                if calibrate:
                    driver.core.begin_calibration()
                    driver.core.calibrate()
        if draw.random() < 0.1:
            driver.core.abort(str(draw.randrange(number + 1)))
    return driver.run()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"prefix_caching": False, "block_size": 3},
    {"max_num_seqs": 8, "kv_cache_memory": 250_000},
    {"kv_cache_dtype": "bfloat16", "quantization": "int8", "block_size": 1},
    {"max_rows_per_step": 24, "block_size": 16},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("model", [TWO, THREE], ids=["two loops", "three loops"])
def test_answers_are_the_same_bits_with_shadow_passes_and_calibrations(
    model: Checkpoint, options: dict[str, Any]
) -> None:
    if options.get("max_num_seqs") == 8:
        options = {**options, "max_model_len": 80}
    shadows = 0
    for seed in range(2):
        plain = crowd(model.driver(**options), seed)
        core, _ = timed_core(model, shadow_steps=1, **options)
        assert crowd(Driver(core), seed, calibrate=True) == plain
        shadows += times(core).shadow_passes
    assert shadows > 20


def test_a_shadow_pass_that_fails_costs_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it fails: before, within and after what it writes."""
    plain = crowd(THREE.driver(), 5)
    core, timed = timed_core(THREE, calibration_time=5, shadow_steps=1)
    real, draw, failed = timed.run, random.Random(1), 0
    attend = core.model.runner.model._attend
    breaks = False

    def broken_attend(*of: Any) -> torch.Tensor:
        if breaks and draw.random() < 0.4:
            raise ValueError("in a layer")
        return attend(*of)

    def run(plan: StepPlan) -> StepLogits:
        nonlocal breaks, failed
        decode = decode_pass(plan, "parallel")
        is_shadow = decode is not None and len(decode.crowds) == 1 and is_part_of_more(plan)
        breaks = is_shadow
        try:
            result = real(plan)
            if is_shadow and draw.random() < 0.3:
                raise ValueError("after it")
            return result
        except ValueError:
            failed += 1
            raise
        finally:
            breaks = False

    def is_part_of_more(plan: StepPlan) -> bool:
        return any(s.sequence.layout.num_loops > 1 and s.sequence.is_decoding for s in plan.segments)

    core.model.runner.model._attend = broken_attend  # type: ignore[method-assign]
    timed.run = run
    answers = crowd(Driver(core), 5)
    assert failed > 10
    assert "a shadow pass failed" in caplog.text
    assert answers == plain
    assert all(answer.error is None for answer in answers.values())


@pytest.mark.parametrize("split", [False, True], ids=["fatal", "of a split model"])
def test_a_shadow_pass_that_breaks_the_engine_is_not_kept_in(
    split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, timed = timed_core(TWO, calibration_time=5, shadow_steps=1)
    error: Exception = ValueError("out of step") if split else EngineDeadError("rank 1 is gone")
    driver = Driver(core)
    driver.add("only", [5, 6, 7])
    while not driver.answers["only"].tokens:
        driver.step()

    def cost(plan: StepPlan) -> float:
        raise error

    timed.cost = cost
    monkeypatch.setattr(type(core.model.runner.followers), "is_empty", not split)
    with pytest.raises(type(error)):
        driver.step()


def test_a_culprit_in_a_crowd_with_shadow_passes_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    def answers(shadow_steps: int) -> dict[str, Answer]:
        core, timed = timed_core(THREE, calibration_time=5, shadow_steps=shadow_steps)
        driver = Driver(core)
        for name in ("a", "bad", "b"):
            driver.add(name, [len(name) + i for i in range(10)], max_tokens=12, logprobs=1)

        def cost(plan: StepPlan) -> float:
            if any(s.sequence_id == "bad" and s.num_output_tokens > 4 for s in plan.sequences):
                raise RuntimeError("bad")
            return rows_cost(plan)

        timed.cost = cost
        return driver.run()

    with caplog.at_level(logging.ERROR):
        assert answers(1) == answers(0)


def test_with_a_real_clock_both_sides_move() -> None:
    core = TWO.core(calibration_time=0.3, shadow_steps=3)
    Driver(core).one([5, 6, 7], max_tokens=60)
    found = times(core)
    assert found.passes > 50
    assert found.shadow_passes > 15
    assert found.parallel_seconds > 0
    assert found.sequential_seconds > 0
    assert found.shadow_sequential_seconds > 0

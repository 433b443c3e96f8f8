"""Padding, selection and static buffers of decode graphs, on the CPU with a stand-in for the capture object."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core import EngineCore
from engine.decode_graphs import MAX_PARTS, DecodeLimits, DecodeShape, Work
from kernels.interface import Tiling
from tests.engine.harness import Checkpoint, Driver, checkpoint


class StandIn:
    """Does what a graph does: runs the captured work again on the captured addresses, into the captured output."""

    def __init__(self) -> None:
        self.captured = 0
        self.replayed = 0

    def __call__(self, work: Work) -> tuple[Callable[[], None], torch.Tensor]:
        output = work().clone()
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            output.copy_(work())

        return replay, output


def limits_of(core: EngineCore, **changes: object) -> DecodeLimits:
    config, layout = core.model.config, core.scheduler.layout
    values = {
        "num_windows": layout.num_windows,
        "rows_per_tile": (layout.num_windows + 1 if core.model.ready.execution == "parallel" else 1,),
        "max_tiles": 4,
        "max_model_len": core.model.max_model_len,
        "block_size": layout.block_size,
        "window": config.loops.window,
        "tiling": core.model.runner.format.tiling,
        **changes,
    }
    return DecodeLimits(**values)


def graphed(model: Checkpoint, **options: object) -> tuple[Driver, StandIn]:
    driver, stand_in = model.driver(**options), StandIn()
    driver.core.model.runner.capture_graphs(limits_of(driver.core), stand_in)
    return driver, stand_in


def requests(seed: int, count: int = 5) -> list[dict[str, object]]:
    rng = random.Random(seed)
    return [
        {
            "name": str(index),
            "prompt": [rng.randrange(3, 300) for _ in range(rng.choice([1, 3, 17, 60]))],
            "max_tokens": rng.choice([1, 5, 12]),
            "temperature": rng.choice([0.0, 1.0]),
            "seed": index,
            "logprobs": 3,
        }
        for index in range(count)
    ]


def answers(driver: Driver, seed: int) -> list[tuple[object, object]]:
    rng = random.Random(seed)
    for request in requests(seed):
        driver.add(**request)
        for _ in range(rng.randrange(4)):
            driver.step()
    return [(name, answer.tokens, answer.logprobs) for name, answer in sorted(driver.run().items())]


@pytest.mark.parametrize("loops", [1, 2, 3])
@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_same_bits_with_and_without_graphs(loops, execution):
    model = checkpoint(seed=loops, plt_num_loops=loops)
    for seed in range(3):
        driver, stand_in = graphed(model, execution=execution)
        captured_before = stand_in.captured
        assert answers(driver, seed) == answers(model.driver(execution=execution), seed)
        assert stand_in.replayed > 0
        assert stand_in.captured == captured_before, "nothing is captured while requests are served"


def test_every_step_of_a_steady_decode_replays():
    driver, stand_in = graphed(checkpoint(seed=2))
    driver.add("long", list(range(3, 30)), max_tokens=100)
    while not driver.answers["long"].tokens:
        driver.step()
    before, passes = stand_in.replayed, driver.passes
    driver.run()
    assert stand_in.replayed - before == driver.passes - passes == 99


def test_capturing_changes_nothing_that_a_later_pass_reads():
    model = checkpoint(seed=3)
    driver = model.driver()
    driver.add("early", list(range(3, 40)), max_tokens=12, logprobs=1)
    for _ in range(4):
        driver.step()
    driver.core.model.runner.capture_graphs(limits_of(driver.core), StandIn())
    plain = model.driver()
    plain.add("early", list(range(3, 40)), max_tokens=12, logprobs=1)
    assert driver.run()["early"].logprobs == plain.run()["early"].logprobs


def test_a_batch_that_no_shape_fits_runs_without_a_graph():
    model = checkpoint(seed=4)
    driver, stand_in = model.driver(), StandIn()
    driver.core.model.runner.capture_graphs(limits_of(driver.core, max_tiles=1), stand_in)
    for name in "ab":
        driver.add(name, [5, 6, 7], max_tokens=9)
    for _ in range(5):
        driver.step()
    assert stand_in.replayed == 0, "two sequences decode, graphs hold one"
    driver.core.abort("b")
    driver.answers.pop("b")
    driver.run()
    assert stand_in.replayed > 0


@settings(max_examples=50, deadline=None)
@given(
    max_tiles=st.integers(1, 100),
    max_model_len=st.integers(2, 200_000),
    split=st.sampled_from([None, 512]),
)
def test_shapes_cover_every_batch_within_the_limits(max_tiles, max_model_len, split):
    limits = DecodeLimits(1, (2,), max_tiles, max_model_len, 16, 64, Tiling(16, split))
    counts, contexts = limits.tile_counts(), limits.contexts()
    assert counts == sorted(set(counts))
    assert contexts == sorted(set(contexts))
    assert counts[-1] == max_tiles
    assert contexts[-1] == max_model_len
    assert len(counts) <= 4 + max_tiles // 8
    assert len(contexts) <= 6


def test_padding_parts_stay_bounded():
    driver, _ = graphed(checkpoint(seed=5))
    graphs = driver.core.model.runner.graphs
    graphs.limits = DecodeLimits(1, (2,), 64, 131072, 16, 64, Tiling(16, 512))
    assert graphs._num_parts(DecodeShape(1, 131072, 2)) == 257
    assert graphs._num_parts(DecodeShape(64, 512, 2)) == 0
    assert graphs._num_parts(DecodeShape(64, 131072, 2)) > MAX_PARTS
    graphs.limits = DecodeLimits(1, (2,), 64, 131072, 16, 64, Tiling(16, 512, always_splits=True))
    assert graphs._num_parts(DecodeShape(3, 512, 2)) == 6


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_with_graphs_for_both_executions_a_pass_takes_the_size_that_is_its_own(execution):
    model = checkpoint(seed=6, plt_num_loops=3)
    driver, stand_in = model.driver(execution=execution), StandIn()
    runner = driver.core.model.runner
    runner.capture_graphs(limits_of(driver.core, rows_per_tile=(1, 3)), stand_in)
    sizes = set()
    choose = runner.graphs._shape_for

    def noting(batch):
        shape = choose(batch)
        sizes.add(None if shape is None else shape.rows)
        return shape

    runner.graphs._shape_for = noting
    assert answers(driver, 5) == answers(model.driver(execution=execution), 5)
    assert stand_in.replayed > 0
    # Near the end of a prompt a sequence may have fewer rows in a parallel pass, too.
    assert sizes - {None} == {1} if execution == "sequential" else 3 in sizes


def test_a_pass_with_more_rows_than_any_shape_runs_without_a_graph():
    """As a sequential engine's, when it is compared with the parallel execution."""
    driver, stand_in = checkpoint(seed=7).driver(), StandIn()
    driver.core.model.runner.capture_graphs(limits_of(driver.core, rows_per_tile=(1,)), stand_in)
    assert answers(driver, 2) == answers(checkpoint(seed=7).driver(), 2)

"""Models whose loops keep a context each (Nanbeige, Ouro), against the float64 oracle: every token, every logit.

`harness.checkpoint(loop_cache="own")` has such a model: PLT's layers without gates, every loop over its own keys.
"""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.baseline.grid import Point
from engine.baseline.synthetic import SyntheticCrowds
from engine.core import EngineCore
from engine.kv_arithmetic import fitting_sequences, held_bytes
from engine.runner import StepLogits
from engine.self_check import Subject, is_batch_invariant
from engine.tap import Tap
from scheduler.loop_layout import LoopCache
from scheduler.step_plan import StepPlan
from tests import oracle
from tests.engine.harness import Answer, Checkpoint, Driver, checkpoint
from tests.engine.test_decode_graphs import StandIn, limits_of

CLOSE = 1e-5
"""Of logits, relative to the largest of a row; a loop that reads another's keys is off by 0.1 to 1."""


@cache
def model_of(loops: int = 3, shift: int = 0, normalize: bool = True, direct: bool = True) -> Checkpoint:
    """A model without gates; `direct`: a later loop's input is the loop before's state alone."""
    scales = {"plt_emb_scale": 0.0, "plt_hidden_scale": 1.0} if direct else {}
    return checkpoint(
        seed=loops,
        loop_cache="own",
        plt_num_loops=loops,
        plt_clp_shift=shift,
        plt_normalize_per_loop=normalize,
        **scales,
    )


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 320, (length,), generator=generator).tolist()


class Watched:
    """A driver that notes every row of logits, by sequence, loop and position."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.logits: dict[tuple[str, int, int], torch.Tensor] = {}
        run = driver.core.model.runner.run

        def watched(plan: StepPlan, tap: Tap | None = None) -> StepLogits:
            result = run(plan, tap)
            for row, logits in zip(result.rows, result.logits, strict=True):
                self.logits[row.sequence.sequence_id, row.loop, row.position] = logits.clone()
            return result

        driver.core.model.runner.run = watched  # type: ignore[method-assign]

    def assert_exact(self, model: Checkpoint, name: str, prompt: list[int], loops: int) -> None:
        """Logits are the oracle's, and so are the tokens."""
        answer = self.driver.answers[name]
        truth = oracle.trace(model.config, model.tensors, prompt + answer.tokens, loops).logits
        found = {key[1:]: logits for key, logits in self.logits.items() if key[0] == name}
        assert {(loops - 1, len(prompt) + n - 1) for n in range(len(answer.tokens))} <= found.keys()
        for (loop, position), logits in found.items():
            expected = truth[loop][position]
            torch.testing.assert_close(
                logits.double(), expected, rtol=0, atol=CLOSE * float(expected.abs().max())
            )
        for number, token in enumerate(answer.tokens):
            row = truth[-1][len(prompt) + number - 1]
            assert float(row.max() - row[token]) <= CLOSE * float(row.abs().max())


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(
    ("loops", "normalize", "direct"), [(2, True, True), (4, False, True), (3, True, False)]
)
def test_cold_chunked_cached_and_whole_prompts(execution, shift, loops, normalize, direct):
    model = model_of(loops, shift, normalize, direct)
    watched = Watched(model.driver(execution=execution, max_rows_per_step=4 * loops + 3))
    driver, cases = watched.driver, {str(length): prompt_of(length, length) for length in (1, 2, 37, 90)}
    for name, prompt in cases.items():
        driver.add(name, prompt, max_tokens=6, loop_logprobs=name == "37")
    driver.add("all", prompt_of(40, 5), max_tokens=3, prompt_logprobs=1)
    driver.run()
    cases["all"] = prompt_of(40, 5)
    cases["next turn"] = cases["90"] + driver.answers["90"].tokens + prompt_of(9, 7)
    driver.add("next turn", cases["next turn"])
    driver.run()
    # 96 tokens of the conversation so far; the last has been sampled, but not computed
    assert driver.answers["next turn"].cached_tokens == 92
    assert [driver.answers[name].cached_tokens for name in ("37", "90", "all")] == [0, 0, 0]
    for name, prompt in cases.items():
        watched.assert_exact(model, name, prompt, loops)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shift=st.integers(0, 1),
    block_size=st.integers(1, 12),
    spare_rows=st.integers(0, 30),
    spare_blocks=st.sampled_from([0, 3, 1000]),
    execution=st.sampled_from(["parallel", "sequential"]),
    backend=st.sampled_from(["cpu", "reference"]),
    crowd=st.lists(
        st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 40), st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    prefix_caching=st.booleans(),
    stagger=st.integers(0, 3),
)
def test_any_crowd(
    shift, block_size, spare_rows, spare_blocks, execution, backend, crowd, prefix_caching, stagger
):
    """Prompts are prefixes of one another; with few blocks to spare, sequences preempt one another."""
    model = model_of(3, shift)
    watched = Watched(
        driver_with_blocks(
            model,
            spare_blocks,
            max_model_len=52,
            block_size=block_size,
            max_rows_per_step=12 + spare_rows,
            execution=execution,
            attention_backend=backend,
            prefix_caching=prefix_caching,
        )
    )
    driver, cases = watched.driver, {}
    for number, (loops, length, by_loop, whole) in enumerate(crowd):
        name = f"{number}"
        cases[name] = prompt_of(40)[:length], loops
        asked = {"loop_logprobs": by_loop, "prompt_logprobs": 0 if whole else None}
        driver.add(name, cases[name][0], loops=loops, max_tokens=12, **asked)
        for _ in range(stagger):
            driver.step()
    driver.run()
    for name, (prompt, loops) in cases.items():
        watched.assert_exact(model, name, prompt, loops)


def driver_with_blocks(model: Checkpoint, spare: int, **options: Any) -> Driver:
    """With as many blocks as one sequence of full length needs, and some."""
    core = model.core(kv_cache_memory=64 << 20, **options)
    scheduler = core.scheduler
    least = scheduler.layout.blocks_for(core.model.max_model_len, scheduler.limits.max_rows)
    per_block = core.ready().cache.kv_block + core.ready().cache.block_hidden
    return model.driver(**{**options, "kv_cache_memory": per_block * (least + spare)})


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_preempted_sequences_give_the_same_bits(prefix_caching):
    model, options = (
        model_of(),
        {"max_rows_per_step": 13, "max_model_len": 80, "prefix_caching": prefix_caching},
    )
    driver = driver_with_blocks(model, 20, **options)
    cases = {str(n): prompt_of(12 + n, n) for n in range(4)}
    for name, prompt in cases.items():
        driver.add(name, prompt, max_tokens=40, logprobs=2)
    answers = driver.run()
    assert driver.core.scheduler.totals.preemptions > 0
    for name, prompt in cases.items():
        alone = model.driver(prefix_caching=False).one(prompt, max_tokens=40, logprobs=2)
        assert (answers[name].tokens, answers[name].logprobs) == (alone.tokens, alone.logprobs)


def test_blocks_of_later_loops_are_kept_while_a_sequence_runs():
    driver = model_of().driver()
    driver.add("a", prompt_of(50), max_tokens=30)
    most = [0, 0, 0]
    while driver.core.has_work:
        most = list(map(max, most, driver.core.stats().cache.blocks or [0] * 3))
        driver.step()
    assert most == [20, 20, 20], "80 positions in blocks of 4, of which the last is never computed"


def test_memory_that_belongs_to_nobody_is_not_read():
    model, prompt = model_of(2), prompt_of(45)
    watched = Watched(model.driver(prefix_caching=False, max_rows_per_step=16))
    driver = watched.driver
    driver.add("a", prompt, max_tokens=20)
    runner, scheduler = driver.core.model.runner, driver.core.scheduler
    while driver.core.has_work:
        driver.step()
        free = torch.tensor(scheduler.blocks.free)
        for layer in runner.state.caches:
            layer.keys[free] = torch.nan
            layer.values[free] = torch.nan
        runner.state.carries[torch.tensor(scheduler.carries.free)] = torch.nan
    watched.assert_exact(model, "a", prompt, 2)


def bits(answers: dict[str, Answer]) -> dict[str, Any]:
    return {name: (a.tokens, a.logprobs, a.loop_logprobs) for name, a in answers.items()}


def crowd_of(driver: Driver, max_tokens: int = 8) -> dict[str, Any]:
    """Sequences that join one another, so that their rows are at different loops in a pass."""
    for number, loops in enumerate([3, 1, 2, 3]):
        prompt = prompt_of(5 + 9 * number, number)
        driver.add(
            *(str(number), prompt),
            loops=loops,
            max_tokens=max_tokens,
            logprobs=2,
            loop_logprobs=number < 2,
        )
        driver.step()
    return bits(driver.run())


@pytest.mark.parametrize("shift", [0, 1])
def test_a_crowd_at_different_loops_changes_no_bit(shift):
    model = model_of(3, shift)
    together = crowd_of(model.driver(prefix_caching=False))
    for number, loops in enumerate([3, 1, 2, 3]):
        alone = model.driver(prefix_caching=False)
        prompt = prompt_of(5 + 9 * number, number)
        alone.add(str(number), prompt, loops=loops, logprobs=2, loop_logprobs=number < 2)
        assert bits(alone.run())[str(number)] == together[str(number)]


def test_rows_of_different_loops_share_a_pass():
    """What the offset of 0 leaves to gain: each sequence is at a loop of its own."""
    driver = model_of(3).driver()
    for number in range(3):
        driver.add(str(number), prompt_of(1, number), max_tokens=9)
        driver.step()
    plan = driver.core.scheduler.schedule()
    assert sorted(segment.loop for segment in plan.segments) == [0, 1, 2]
    assert {segment.num_rows for segment in plan.segments} == {1}


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_triton_gives_the_reference_backends_answers(shift, execution):
    model = model_of(3, shift)
    expected = crowd_of(model.driver(attention_backend="reference"), 2)
    actual = crowd_of(model.driver(attention_backend="triton", execution=execution), 2)
    for name, (tokens, logprobs, _) in actual.items():
        assert tokens == expected[name][0]
        for mine, other in zip(logprobs, expected[name][1], strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_graphs_change_no_bit(shift, execution):
    model = model_of(3, shift)
    driver, stand_in = model.driver(execution=execution), StandIn()
    limits = limits_of(driver.core, max_tiles=12, rows_per_tile=(1,))
    driver.core.model.runner.capture_graphs(limits, stand_in)
    assert crowd_of(driver) == crowd_of(model.driver(execution=execution))
    assert stand_in.replayed > 5


@pytest.mark.parametrize("shift", [0, 1])
def test_the_self_check_tries_such_models(shift):
    model = model_of(3, shift)
    core = model.core()
    subject = Subject(core.model.runner, core.scheduler.limits, core.scheduler.blocks.num_blocks, 64)
    assert is_batch_invariant(subject)
    assert model.core(self_check=True).ready().batch_invariant is True


def test_two_ways_to_run_are_compared_only_where_there_are_two():
    """With an offset of 0 a token's loops are in a pass each, whatever the execution."""
    for shift in (0, 1):
        driver = model_of(3, shift).driver(calibration_time=0.2, loop_metrics_sample=0.0)
        core: EngineCore = driver.core
        assert (len(core.baseline._cells) > 0) == bool(shift)
        driver.one(prompt_of(20), max_tokens=12)
        times = core.stats().decode
        assert times.passes > 0
        if shift == 0:
            assert times.parallel_seconds == times.sequential_seconds > 0


def test_a_synthetic_crowd_reads_the_whole_context_of_every_loop():
    core = model_of(3, 1).core()
    crowds = SyntheticCrowds(core.model.runner, core.scheduler, 1000)
    assert crowds.blocks_for(Point(2, 13)) == 2 * 3 * 4
    with crowds.crowd(Point(2, 13)) as crowd:
        assert crowd is not None
        for plan in [crowd.parallel, *crowd.sequential]:
            core.model.runner.run(plan)
    assert core.scheduler.blocks.used == 0


def test_what_such_a_cache_costs():
    core = model_of(3).core(max_model_len=64)
    ready = core.ready()
    assert core.scheduler.layout.cache is LoopCache.OWN
    assert ready.kv_bytes_per_token == ready.kv_bytes_per_token_sequential == 3 * ready.cache.kv_block // 4
    assert ready.kv_bytes_per_sequence == 2 * 64 * 4, "carries, and no windows"
    core.scheduler.blocks.allocate(5)
    assert not ready.cache.has_windows
    driver = Driver(model_of(3).core(max_model_len=64))
    driver.add("a", prompt_of(50))
    driver.step()
    stats = driver.core.stats()
    assert (stats.shared_blocks_used, stats.window_blocks_used, stats.own_blocks_used) == (0, 0, 39)
    block = ready.cache.kv_block + ready.cache.block_hidden
    held = held_bytes(stats.cache, ready.cache)
    assert {key: count for key, count in held.items() if key[0] != "carry"} == {
        ("own", loop): 13 * block for loop in range(3)
    }
    fitting = fitting_sequences(ready.cache, 100, 3, 4, 40)
    assert fitting["shared"] == 100 // 30
    assert fitting["one_loop"] > 3 * fitting["shared"]

"""Requests for fewer loops than the model has, and what each loop would have said, against the oracle and against the
same weights loaded with fewer loops."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import load_config
from engine.errors import InvalidRequestError
from engine.options import EngineOptions
from engine.placement import resolve_placement
from engine.runner import StepLogits, block_bytes
from scheduler.step_plan import StepPlan
from tests import oracle
from tests.engine.harness import Answer, Checkpoint, Driver, checkpoint
from tests.engine.test_decode_graphs import StandIn, limits_of

LOOPS = 3
ATOL = 2e-4
"""float32 round-off of log-probabilities of these O(1) logits; another loop's differ by 0.01 to 1."""


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 320, (length,), generator=generator).tolist()


@cache
def model_of(shift: int = 1, normalize: bool = True, window: int = 3) -> Checkpoint:
    return checkpoint(
        plt_num_loops=LOOPS,
        plt_clp_shift=shift,
        plt_normalize_per_loop=normalize,
        plt_hidden_scale=1.0 if normalize else 0.2,
        plt_window_size=[window, 0],
    )


def assert_exact(model: Checkpoint, prompt: list[int], answer: Answer, loops: int) -> None:
    """Tokens and log-probabilities are those of the oracle with `loops` loops, and so is what each loop says."""
    assert answer.num_loops == loops
    each = [
        oracle.forward(model.config, model.tensors, prompt + answer.tokens, loop + 1).log_softmax(-1)
        for loop in range(loops)
    ]
    for number, (token, reported) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
        row = len(prompt) + number - 1
        assert reported.logprob == pytest.approx(float(each[-1][row, token]), abs=ATOL)
        assert float(each[-1][row].max() - each[-1][row, token]) < ATOL
        for other, logprob in reported.top:
            assert logprob == pytest.approx(float(each[-1][row, other]), abs=ATOL)
    for number, by_loop in enumerate(answer.loop_logprobs):
        expected = [float(logprobs[len(prompt) + number - 1, answer.tokens[number]]) for logprobs in each]
        assert by_loop == pytest.approx(expected, abs=ATOL)
        assert by_loop[-1] == answer.logprobs[number].logprob, "the same number, bit for bit"
    assert len(answer.loop_tokens) == len(answer.loop_logprobs)
    for number, by_loop in enumerate(answer.loop_tokens):
        for logprobs, token in zip(each, by_loop, strict=True):
            row = logprobs[len(prompt) + number - 1]
            assert float(row.max() - row[token]) < ATOL
    for position, entry in enumerate(answer.prompt_logprobs[1:], 1):
        assert entry.logprob == pytest.approx(float(each[-1][position - 1, prompt[position]]), abs=ATOL)


def bits(answer: Answer) -> tuple[Any, ...]:
    return (
        answer.tokens,
        answer.logprobs,
        answer.prompt_logprobs,
        answer.finish_reason,
        answer.loop_logprobs,
        answer.loop_tokens,
    )


def with_fewer_loops(model: Checkpoint, loops: int, prompt: list[int], **params: Any) -> tuple[Any, ...]:
    """What the same weights give when loaded with so many loops; nothing else runs, nothing is cached."""
    driver = model.driver(model_overrides={"plt_num_loops": loops}, prefix_caching=False)
    return bits(driver.one(prompt, **params))


SAMPLED = {"temperature": 1.0, "seed": 42, "top_p": 0.95}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_a_budget_gives_the_bits_of_the_weights_loaded_with_fewer_loops(execution, shift, normalize):
    model = model_of(shift, normalize)
    driver = model.driver(execution=execution, max_rows_per_step=17)
    cases = [
        {"loops": loops, "prompt": prompt_of(length), "logprobs": 3, "loop_logprobs": True, **params}
        for loops in range(1, LOOPS + 1)
        for length, params in [(1, {}), (60, {}), (45, SAMPLED), (30, {"prompt_logprobs": 2})]
    ]
    for number, case in enumerate(cases):
        driver.add(str(number), **case)
    answers = driver.run()
    for number, case in enumerate(cases):
        assert bits(answers[str(number)]) == with_fewer_loops(model, **case), case
        assert len(answers[str(number)].loop_logprobs) == 8
        if "temperature" not in case:
            assert_exact(model, case["prompt"], answers[str(number)], case["loops"])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shift=st.integers(0, 1),
    window=st.sampled_from([1, 3, 8]),
    block_size=st.integers(1, 12),
    spare_rows=st.integers(0, 30),
    execution=st.sampled_from(["parallel", "sequential"]),
    backend=st.sampled_from(["cpu", "reference"]),
    crowd=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, None]), st.integers(1, 60), st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    prefix_caching=st.booleans(),
    stagger=st.integers(0, 3),
)
def test_any_mixture_of_budgets(
    shift, window, block_size, spare_rows, execution, backend, crowd, prefix_caching, stagger
):
    """Prompts are prefixes of one another, so that blocks are found wherever that is allowed."""
    model = model_of(shift, window=window)
    driver = model.driver(
        block_size=block_size,
        max_rows_per_step=4 * LOOPS + spare_rows,
        execution=execution,
        attention_backend=backend,
        prefix_caching=prefix_caching,
    )
    for number, (loops, length, by_loop, whole_prompt) in enumerate(crowd):
        asked = {"logprobs": 2, "loop_logprobs": by_loop, "prompt_logprobs": 0 if whole_prompt else None}
        driver.add(str(number), prompt_of(60)[:length], loops=loops, max_tokens=4, **asked)
        for _ in range(stagger):
            driver.step()
    answers = driver.run()
    for number, (loops, length, by_loop, _) in enumerate(crowd):
        answer = answers[str(number)]
        assert len(answer.loop_logprobs) == (4 if by_loop else 0)
        assert_exact(model, prompt_of(60)[:length], answer, loops or LOOPS)


def test_cached_blocks_serve_their_own_budget_only_and_change_no_bit():
    model = model_of()
    driver = model.driver()
    prompt = prompt_of(100)
    cached = []
    for number, loops in enumerate([3, 1, 2, 1, 2, 3, None]):
        driver.add(str(number), prompt, loops=loops, logprobs=1, loop_logprobs=True)
        answer = driver.run()[str(number)]
        cached.append(answer.cached_tokens)
        assert bits(answer) == with_fewer_loops(model, loops or LOOPS, prompt, logprobs=1, loop_logprobs=True)
        follow_up = prompt + answer.tokens + prompt_of(7, 9)  # restored from its windows, not recomputed
        driver.add(f"{number}+", follow_up, loops=loops, logprobs=1, loop_logprobs=True)
        answer = driver.run()[f"{number}+"]
        assert answer.cached_tokens >= 104
        assert_exact(model, follow_up, answer, loops or LOOPS)
    assert cached == [0, 0, 0, 96, 96, 96, 96]


def test_fewer_loops_compute_fewer_rows():
    rows = []
    for loops in (1, 2, 3):
        driver = model_of().driver()
        driver.one(prompt_of(50), loops=loops, max_tokens=5)
        rows.append(driver.core.rows_total)
    look_back = 3 * 2 + 1
    assert rows[0] == [54, 0, 0]
    assert rows[1] == [54, look_back + 4, 0]
    assert rows[2] == [54, 2 * look_back + 4, look_back + 4]


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_preempted_sequences_of_any_budget_give_the_same_bits(prefix_caching):
    model = model_of()
    layout = model.core().scheduler.layout
    placement = resolve_placement(EngineOptions(model_dir="", device="cpu"), load_config(model.path, {}))
    size = block_bytes(load_config(model.path, {}), placement, layout.block_size, prefix_caching)
    driver = model.driver(
        max_rows_per_step=13,
        max_model_len=110,
        kv_cache_memory=size * (layout.blocks_for(110, 13) + 5),
        prefix_caching=prefix_caching,
    )
    cases = {str(n): (prompt_of(30 + n, n), (3, 1, 2, 3)[n]) for n in range(4)}
    asked = {"max_tokens": 60, "logprobs": 1, "loop_logprobs": True}
    for name, (prompt, loops) in cases.items():
        driver.add(name, prompt, loops=loops, **asked)
    answers = driver.run()
    assert driver.core.scheduler.totals.preemptions > 0
    for name, (prompt, loops) in cases.items():
        assert bits(answers[name]) == with_fewer_loops(model, loops, prompt, **asked)


@pytest.mark.parametrize("max_rows", range(12, 18))
def test_loop_logprobs_beside_prompts_that_take_the_rows(max_rows):
    """The long prompts' tails leave the asking sequence anything from no row to all of them."""
    model = model_of(window=8)
    driver = model.driver(max_rows_per_step=max_rows)
    driver.add("asks", prompt_of(20), max_tokens=30, logprobs=0, loop_logprobs=True)
    for number in range(9):
        driver.add(str(number), prompt_of(50 + 7 * number, number), max_tokens=1, priority=-1)
    assert_exact(model, prompt_of(20), driver.run()["asks"], LOOPS)


def asked_of(driver: Driver, max_tokens: int = 8) -> dict[str, Answer]:
    """Requests of all budgets that join one another."""
    for number, loops in enumerate([1, 3, 2, 1, None]):
        driver.add(
            str(number),
            prompt_of(5 + 9 * number, number),
            loops=loops,
            max_tokens=max_tokens,
            logprobs=2,
            loop_logprobs=number % 2 == 0,
        )
        driver.step()
    return driver.run()


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_graphs_take_sequences_of_any_budget(execution):
    model = model_of()
    driver, stand_in = model.driver(execution=execution), StandIn()
    driver.core.model.runner.capture_graphs(limits_of(driver.core), stand_in)
    plain = asked_of(model.driver(execution=execution))
    assert {name: bits(a) for name, a in asked_of(driver).items()} == {n: bits(a) for n, a in plain.items()}
    assert stand_in.replayed > 8
    before, passes = stand_in.replayed, driver.passes
    for loops in (1, 2, 3):
        driver.add(f"last {loops}", prompt_of(1), loops=loops, max_tokens=20, loop_logprobs=True)
    driver.run()
    assert stand_in.replayed - before == driver.passes - passes


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_triton_gives_the_reference_backends_tokens(execution):
    model = model_of()
    expected = asked_of(model.driver(attention_backend="reference"), 3)
    actual = asked_of(model.driver(attention_backend="triton", execution=execution), 3)
    for name, answer in actual.items():
        assert answer.tokens == expected[name].tokens
        for mine, other in zip(answer.loop_logprobs, expected[name].loop_logprobs, strict=True):
            assert mine == pytest.approx(other, abs=1e-4)
            assert mine[-1] == pytest.approx(answer.logprobs[answer.loop_logprobs.index(mine)].logprob)


def test_two_ranks_give_what_one_gives():
    model = model_of()
    one, two = asked_of(model.driver()), asked_of(model.driver(tensor_parallel_size=2))
    for name, answer in two.items():
        assert answer.tokens == one[name].tokens
        for mine, other in zip(answer.loop_logprobs, one[name].loop_logprobs, strict=True):
            assert mine == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("loops", [0, -1, 4, 2**40, True, "2", 1.0])
def test_other_budgets_are_refused_and_not_queued(loops):
    driver = model_of().driver()
    with pytest.raises(InvalidRequestError, match="from 1 to 3") as refusal:
        driver.add("bad", prompt_of(3), loops=loops)
    assert refusal.value.param == "loops"
    assert not driver.core.has_work


def test_a_model_of_one_loop_takes_that_budget():
    model = checkpoint(plt_num_loops=1)
    answer = model.driver().one(prompt_of(30), loops=1, logprobs=0, loop_logprobs=True)
    assert answer.loop_logprobs == [[entry.logprob] for entry in answer.logprobs]
    with pytest.raises(InvalidRequestError, match="from 1 to 1"):
        model.driver().add("two", prompt_of(3), loops=2)


def test_who_does_not_ask_costs_no_logits(monkeypatch):
    driver = model_of().driver()
    wanted = []
    run = driver.core.model.runner.run

    def counted(plan: StepPlan) -> StepLogits:
        result = run(plan)
        wanted.append(len(result.rows))
        return result

    monkeypatch.setattr(driver.core.model.runner, "run", counted)
    assert driver.one(prompt_of(30), max_tokens=9).loop_logprobs == []
    assert max(wanted) == 1
    assert not driver.core.active


def test_one_wait_for_the_device_a_step(monkeypatch):
    reads = []

    def counted(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        reads.append(len(tensors))
        return list(tensors)

    monkeypatch.setattr("engine.sampler.to_host", counted)
    driver = model_of().driver()
    driver.one(prompt_of(30), logprobs=1, loop_logprobs=True, max_tokens=9)
    assert len(reads) == 9


def test_numbers_that_are_broken_in_an_earlier_loop_only(monkeypatch):
    driver = model_of().driver()
    run = driver.core.model.runner.run

    def broken(plan: StepPlan) -> StepLogits:
        result = run(plan)
        logits = result.logits.clone()
        logits[[row.loop == 0 for row in result.rows]] = torch.nan
        return StepLogits(result.rows, logits)

    monkeypatch.setattr(driver.core.model.runner, "run", broken)
    answer = driver.one(prompt_of(10), logprobs=0, loop_logprobs=True)
    assert answer.finish_reason == "length"
    for by_loop, entry in zip(answer.loop_logprobs, answer.logprobs, strict=True):
        assert by_loop[0] != by_loop[0]
        assert by_loop[-1] == entry.logprob


def test_an_abort_between_the_loops_of_a_position_leaks_nothing():
    for steps in range(8):
        driver = model_of(shift=0).driver()
        driver.add("gone", prompt_of(25), loop_logprobs=True)
        for _ in range(steps):
            driver.step()
        driver.core.abort("gone")
        driver.run()

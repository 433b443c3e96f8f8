"""What is reported of the loops, against the oracle; what is sampled at all; that sampling costs no request a thing."""

import logging
import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.loop_signals import MOST_FAILURES, SignalSampler
from engine.messages import LoopSignals
from engine.runner import StepLogits
from engine.tap import LoopTap, Tap
from scheduler.errors import InvariantError
from scheduler.step_plan import StepPlan
from tests import oracle
from tests.engine.harness import Answer, Checkpoint, Driver, checkpoint

CLOSE = 2e-4
"""float32 round-off; the mean gates and changes of other positions and loops differ by far more."""

Pair = tuple[str, int, int]  # sequence, loop, position


@cache
def model_of(loops: int, normalize: bool = True, shift: int = 1, own: bool = False) -> Checkpoint:
    return checkpoint(
        seed=10 + loops,
        loop_cache="own" if own else "window",
        plt_num_loops=loops,
        plt_clp_shift=shift,
        plt_normalize_per_loop=normalize,
        plt_hidden_scale=0.9 if normalize else 0.2,
        plt_window_size=[3, 0],
    )


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 320, (length,), generator=generator).tolist()


class Watch:
    """Notes from the plans themselves what may be sampled, and what was.

    Attributes:
        possible: passes of which something may be, each with its pairs.
        tapped: numbers of those that had a tap.
        wrong: other passes that had one.
    """

    def __init__(self, driver: Driver) -> None:
        self.possible: list[list[Pair]] = []
        self.tapped: list[int] = []
        self.wrong = 0
        run = driver.core.model.runner.run

        def watched(plan: StepPlan, tap: Tap | None = None) -> StepLogits:
            pairs = self.pairs(plan)
            if pairs:
                if tap is not None:
                    self.tapped.append(len(self.possible))
                self.possible.append(pairs)
            elif tap is not None:
                self.wrong += 1  # what is raised here would be taken for a failure of the pass
            return run(plan, tap)

        driver.core.model.runner.run = watched  # type: ignore[method-assign]

    @staticmethod
    def pairs(plan: StepPlan) -> list[Pair]:
        """Of a decode pass: whoever has a row there has only its newest position, once per loop.

        With an offset of 0 the loop before was there in an earlier pass.
        """
        rows = [
            (segment.sequence, segment.loop, position)
            for segment in plan.segments
            for position in range(segment.start, segment.stop)
        ]
        newest = all(position == len(sequence) - 1 for sequence, _, position in rows)
        if not newest or plan.admitted or plan.restores:
            return []
        present = {(sequence.sequence_id, loop, position) for sequence, loop, position in rows}
        if rows[0][0].layout.offset == 0:
            return [(name, loop, i) for name, loop, i in sorted(present) if loop > 0]
        return [(name, loop, i) for name, loop, i in sorted(present) if (name, loop - 1, i) in present]


def expected(
    model: Checkpoint,
    sampled: list[Pair],
    crowd: dict[str, tuple[list[int], int]],
    answers: dict[str, Answer],
) -> tuple[LoopSignals, list[int]]:
    """The totals in float64, and per loop how many most probable tokens are too close to call."""
    loops = model.config["plt_num_loops"]
    totals = LoopSignals(
        tokens=[0] * loops, gates=[0.0] * loops, changes=[0.0] * loops, token_changes=[0] * loops
    )
    unclear = [0] * loops
    truths = {
        name: oracle.trace(model.config, model.tensors, prompt + answers[name].tokens, budget)
        for name, (prompt, budget) in crowd.items()
    }
    for name, loop, i in sampled:
        truth = truths[name]
        before, now = (truth.hidden[each][i] for each in (loop - 1, loop))
        totals.tokens[loop] += 1
        if truth.gates[loop]:
            totals.gates[loop] += float(torch.stack([gates[i] for gates in truth.gates[loop]]).mean())
        totals.changes[loop] += float((now - before).norm() / before.norm())
        best = [int(truth.logits[each][i].argmax()) for each in (loop - 1, loop)]
        totals.token_changes[loop] += best[0] != best[1]
        for each in (loop - 1, loop):
            first, second = truth.logits[each][i].topk(2).values.tolist()
            unclear[loop] += first - second < CLOSE
    return totals, unclear


def assert_close(found: LoopSignals, truth: LoopSignals, unclear: list[int]) -> None:
    assert found.tokens == truth.tokens
    for loop, count in enumerate(found.tokens):
        found_gate = found.gates[loop] if found.gates else 0.0
        assert found_gate == pytest.approx(truth.gates[loop], abs=CLOSE * max(1, count))
        assert found.changes[loop] == pytest.approx(truth.changes[loop], abs=CLOSE * max(1, count))
        assert abs(found.token_changes[loop] - truth.token_changes[loop]) <= unclear[loop]


def bits(answer: Answer) -> tuple[Any, ...]:
    return (
        answer.tokens,
        answer.logprobs,
        answer.prompt_logprobs,
        answer.finish_reason,
        answer.loop_logprobs,
        answer.loop_tokens,
        answer.cached_tokens,
    )


CROWDS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 50), st.integers(1, 12), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    loops=st.sampled_from([2, 3, 4]),
    normalize=st.booleans(),
    shift=st.integers(0, 1),
    own=st.booleans(),
    fraction=st.sampled_from([1.0, 0.5, 0.2]),
    backend=st.sampled_from(["cpu", "reference"]),
    crowd=CROWDS,
    stagger=st.integers(0, 3),
    memory=st.sampled_from([8 << 20, 160 << 10]),
)
def test_what_is_reported_is_what_the_oracle_computes_and_changes_no_bit(
    loops, normalize, shift, own, fraction, backend, crowd, stagger, memory
):
    """With 160 kB of cache, sequences preempt one another."""
    model = model_of(loops, normalize, shift, own)
    requests = {
        str(number): (prompt_of(60)[:length], min(budget, loops))
        for number, (budget, length, _, _) in enumerate(crowd)
    }

    def play(fraction: float) -> tuple[Driver, Watch]:
        driver = model.driver(
            loop_metrics_sample=fraction, attention_backend=backend, kv_cache_memory=memory, max_model_len=62
        )
        watch = Watch(driver)
        for number, (_, _, max_tokens, drawn) in enumerate(crowd):
            prompt, budget = requests[str(number)]
            asked = (
                {"temperature": 0.8, "seed": number, "loop_logprobs": True}
                if drawn
                else {"prompt_logprobs": 1}
            )
            driver.add(str(number), prompt, loops=budget, max_tokens=max_tokens, logprobs=2, **asked)
            for _ in range(stagger):
                driver.step()
        driver.run()
        return driver, watch

    driver, watch = play(fraction)
    every = round(1 / fraction)
    assert watch.tapped == list(range(every - 1, len(watch.possible), every))
    assert watch.wrong == 0
    sampled = [pair for number in watch.tapped for pair in watch.possible[number]]
    found = driver.core.stats().signals
    assert_close(found, *expected(model, sampled, requests, driver.answers))
    assert found.tokens[0] == found.token_changes[0] == found.changes[0] == 0
    assert found.gates == [] if own else found.gates[0] == 0
    unsampled, other = play(0.0)
    assert other.tapped == []
    assert unsampled.core.stats().signals == LoopSignals()
    for name in requests:
        assert bits(driver.answers[name]) == bits(unsampled.answers[name])


@pytest.mark.parametrize(
    ("loops", "changes"),
    [(3, {"execution": "sequential"}), (1, {})],
)
def test_nothing_is_sampled_where_the_loop_before_left_nothing_to_compare_with(loops, changes):
    driver = model_of(loops).driver(loop_metrics_sample=1.0, **changes)
    watch = Watch(driver)
    driver.add("a", prompt_of(9), max_tokens=12)
    driver.add("b", prompt_of(30), max_tokens=12, loop_logprobs=True)
    driver.run()
    assert watch.possible == []
    assert watch.wrong == 0
    assert sum(driver.core.stats().signals.tokens) == 0


def test_a_split_model_is_not_sampled():
    driver = model_of(2).driver(loop_metrics_sample=1.0, tensor_parallel_size=2)
    answer = driver.one(prompt_of(9), max_tokens=5)
    assert driver.core.signals is None
    assert len(answer.tokens) == 5
    driver.core.model.runner.followers.close()


@pytest.mark.parametrize("fraction", [1.0, 0.4, 0.03, 0.01])
def test_the_rate_is_a_count(fraction):
    driver = model_of(2).driver(loop_metrics_sample=fraction)
    watch = Watch(driver)
    driver.one(prompt_of(20), max_tokens=121)
    assert len(watch.possible) == 120
    assert len(watch.tapped) == 120 // round(1 / fraction)
    assert driver.core.stats().signals.tokens == [0, len(watch.tapped)]


def test_broken_rows_stay_out_of_the_sums():
    driver = model_of(3).driver(loop_metrics_sample=1.0)
    for name in ("fine", "nan", "zero"):
        driver.add(name, prompt_of(5), max_tokens=6)
    for _ in range(3):  # one per loop
        driver.step()
    plan = driver.core.scheduler.schedule()
    tap = LoopTap()
    driver.core.model.runner.run(plan, tap)
    hidden, normed = (state.clone() for state in tap.states)
    hidden[4], normed[7] = 0.0, torch.nan  # H of the second's loop 1, logits of the third's loop 1
    tap.states = hidden, normed
    sampler = SignalSampler(driver.core.model.runner.model, driver.core.model.runner.state.carries, 1)
    sampler.take(plan, tap)
    assert [len(plan.segments), sampler.totals.tokens] == [9, [0, 2, 1]]
    assert all(map(math.isfinite, [*sampler.totals.gates, *sampler.totals.changes]))


# --- what goes wrong in it ---


def answers_of(driver: Driver, names: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    for number, name in enumerate(names):
        driver.add(name, prompt_of(8 + number, number), max_tokens=9, logprobs=1)
    return {name: bits(answer) for name, answer in driver.run().items()}


def test_a_sample_that_fails_costs_nobody_anything_and_is_given_up_when_it_always_does(monkeypatch, caplog):
    plain = answers_of(model_of(2).driver())
    calls: list[int] = []

    def broken(self: SignalSampler, normed: torch.Tensor) -> Any:
        calls.append(len(normed))
        raise torch.OutOfMemoryError("no room for logits")

    monkeypatch.setattr(SignalSampler, "_best", broken)
    driver = model_of(2).driver(loop_metrics_sample=1.0)
    with caplog.at_level(logging.WARNING):
        assert answers_of(driver) == plain
    assert len(calls) == MOST_FAILURES
    assert (
        sum("a sample of what the loops do failed" in record.message for record in caplog.records)
        == MOST_FAILURES
    )
    assert driver.core.stats().signals.tokens == [0, 0]
    assert driver.core.stats().isolated_errors_total == 0


def test_a_success_in_between_starts_the_count_of_failures_again(monkeypatch):
    best, calls = SignalSampler._best, []

    def flaky(self: SignalSampler, normed: torch.Tensor) -> Any:
        calls.append(len(normed))
        if len(calls) % 3:
            raise RuntimeError("now and then")
        return best(self, normed)

    monkeypatch.setattr(SignalSampler, "_best", flaky)
    driver = model_of(2).driver(loop_metrics_sample=1.0)
    driver.one(prompt_of(8), max_tokens=60)
    assert driver.core.stats().signals.tokens[1] > 10


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_a_tap_that_fails_in_the_pass_costs_nobody_anything(monkeypatch, caplog, names):
    """Not even one that is alone in its pass, where the isolation could only blame it."""
    plain = answers_of(model_of(2).driver(), names)

    def broken(self: LoopTap, gates: torch.Tensor) -> None:
        raise MemoryError

    monkeypatch.setattr(LoopTap, "gates", broken)
    driver = model_of(2).driver(loop_metrics_sample=1.0)
    with caplog.at_level(logging.WARNING):
        assert answers_of(driver, names) == plain
    assert sum("while it was looked at" in record.message for record in caplog.records) == MOST_FAILURES
    assert driver.core.stats().isolated_errors_total == 0
    assert driver.core.stats().signals.tokens == [0, 0]


def test_a_pass_of_which_some_fail_is_not_sampled(monkeypatch):
    plain = answers_of(model_of(2).driver())
    driver = model_of(2).driver(loop_metrics_sample=1.0)
    run = driver.core.model.runner.run
    passes: list[int] = []

    def broken(plan: StepPlan, *tap: Tap) -> StepLogits:
        passes.append(len(plan.segments))
        if len(passes) > 3 and any(sequence.sequence_id == "bad" for sequence in plan.sequences):
            raise RuntimeError("the culprit's")
        return run(plan, *tap)

    monkeypatch.setattr(driver.core.model.runner, "run", broken)
    driver.add("bad", prompt_of(5), max_tokens=50)
    watched, tapped = driver.core.signals, 0
    tap_for, take = watched.tap_for, watched.take
    taken: list[LoopTap] = []

    def noted_tap(plan: StepPlan) -> LoopTap | None:
        nonlocal tapped
        tap = tap_for(plan)
        tapped += tap is not None
        return tap

    def noted(plan: StepPlan, tap: LoopTap) -> None:
        taken.append(tap)
        take(plan, tap)

    monkeypatch.setattr(watched, "tap_for", noted_tap)
    monkeypatch.setattr(watched, "take", noted)
    found = answers_of(driver)
    assert found.pop("bad")[3] == "error"
    assert found == plain
    assert len(taken) == tapped - 1
    assert all(tap.states is not None for tap in taken)
    assert driver.core.stats().isolated_errors_total == 1


def test_a_broken_engine_is_not_taken_for_a_broken_sample(monkeypatch):
    def broken(self: SignalSampler, normed: torch.Tensor) -> Any:
        raise InvariantError("the books")

    monkeypatch.setattr(SignalSampler, "_best", broken)
    driver = model_of(2).driver(loop_metrics_sample=1.0)
    driver.add("a", prompt_of(8))
    with pytest.raises(InvariantError):
        driver.run()


def test_totals_that_were_given_out_do_not_change():
    """A thread that serves may still read them."""
    driver = model_of(2).driver(loop_metrics_sample=1.0)
    driver.add("a", prompt_of(8), max_tokens=9)
    for _ in range(3):
        driver.step()
    before = driver.core.stats().signals
    kept = [*before.tokens]
    driver.run()
    assert before.tokens == kept != driver.core.stats().signals.tokens

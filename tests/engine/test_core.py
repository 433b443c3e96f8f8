"""The core's own rules: admission, abort at any moment, ends, stats."""

import pytest
import torch

from engine.core import EngineCore
from engine.errors import InvalidRequestError
from engine.messages import StepShape
from engine.runner import StepLogits
from scheduler.invariants import check, check_idle
from scheduler.step_plan import StepPlan
from tests import oracle
from tests.engine.harness import checkpoint

MODEL = checkpoint(seed=2, plt_num_loops=3)
PROMPT = [(11 * i) % 290 + 10 for i in range(45)]


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], {}, "prompt"),
        ([320], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([9] * 510, {"max_tokens": 3}, "prompt"),
        ([9], {"temperature": -1.0}, "temperature"),
        ([9], {"temperature": float("nan")}, "temperature"),
        ([9], {"top_p": 0.0}, "top_p"),
        ([9], {"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ([9], {"logit_bias": {320: 1.0}}, "logit_bias"),
        ([9], {"stop_token_ids": (10**9,)}, "stop_token_ids"),
        ([9], {"seed": 2**64}, "seed"),
        ([9], {"logprobs": 21}, "logprobs"),
        ([9], {"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
)
def test_what_can_never_be_served_is_refused_and_not_queued(prompt, params, param):
    driver = MODEL.driver()
    with pytest.raises(InvalidRequestError) as refusal:
        driver.add("bad", prompt, **params)
    assert refusal.value.param == param
    assert not driver.core.has_work


def test_an_id_in_use_is_refused():
    driver = MODEL.driver()
    driver.add("a", PROMPT)
    with pytest.raises(InvalidRequestError, match="in use"):
        driver.add("a", PROMPT)


@pytest.mark.parametrize("steps", range(9))
def test_abort_at_any_moment_leaks_nothing_and_disturbs_nobody(steps):
    expected = oracle.greedy(MODEL.config, MODEL.tensors, PROMPT, 8)
    driver = MODEL.driver(max_rows_per_step=16)
    driver.add("gone", PROMPT[::-1])
    driver.add("stays", PROMPT)
    for _ in range(steps):
        driver.step()
    driver.core.abort("gone")
    driver.core.abort("gone")
    driver.core.abort("never there")
    check(driver.core.scheduler)
    assert driver.run()["stays"].tokens == expected


def test_abort_of_everything_leaves_an_empty_engine():
    driver = MODEL.driver()
    for number in range(7):
        driver.add(str(number), PROMPT[: 5 + number])
    driver.step()
    for number in range(7):
        driver.core.abort(str(number))
    check_idle(driver.core.scheduler)
    assert driver.core.step() == []


def test_a_stop_token_ends_and_is_reported():
    free = MODEL.driver().one(PROMPT, max_tokens=8)
    stop = free.tokens[3]
    stopped = MODEL.driver().one(PROMPT, max_tokens=8, stop_token_ids=(stop,))
    end = free.tokens.index(stop) + 1
    assert stopped.tokens == free.tokens[:end]
    assert (stopped.finish_reason, stopped.stop_token_id) == ("stop", stop)
    longer = MODEL.driver().one(PROMPT, max_tokens=8, stop_token_ids=(stop,), min_tokens=7)
    assert len(longer.tokens) >= 7
    assert stop not in longer.tokens[:7]


def test_no_tokens_wanted_gives_the_prompts_logprobs_only():
    answer = MODEL.driver().one(PROMPT, max_tokens=0, prompt_logprobs=0)
    assert answer.tokens == []
    assert answer.finish_reason == "length"
    assert len(answer.prompt_logprobs) == len(PROMPT)


def break_numbers_of(name: str, core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the model gives NaN for the request `name`."""
    run = core.model.runner.run

    def broken(plan: StepPlan) -> StepLogits:
        result = run(plan)
        logits = result.logits.clone()
        logits[[row.sequence.sequence_id == name for row in result.rows]] = torch.nan
        return StepLogits(result.rows, logits)

    monkeypatch.setattr(core.model.runner, "run", broken)


def test_broken_numbers_fail_their_request_only(monkeypatch):
    expected = MODEL.driver().one(PROMPT, max_tokens=8).tokens
    driver = MODEL.driver()
    driver.add("broken", PROMPT[:3])
    break_numbers_of("broken", driver.core, monkeypatch)
    driver.run()
    assert driver.answers["broken"].finish_reason == "error"
    driver.add("fine", PROMPT)
    assert driver.run()["fine"].tokens == expected


def test_broken_numbers_beside_healthy_ones(monkeypatch):
    expected = {seed: MODEL.driver().one(PROMPT, seed=seed, temperature=1.0).tokens for seed in (1, 2)}
    driver = MODEL.driver()
    driver.add("1", PROMPT, seed=1, temperature=1.0)
    driver.add("bad", PROMPT, temperature=1.0, logprobs=1)
    driver.add("2", PROMPT, seed=2, temperature=1.0)
    break_numbers_of("bad", driver.core, monkeypatch)
    answers = driver.run()
    assert (answers["bad"].finish_reason, answers["bad"].tokens, answers["bad"].logprobs) == ("error", [], [])
    assert answers["bad"].error
    assert {seed: answers[str(seed)].tokens for seed in (1, 2)} == expected


def test_a_step_reads_the_device_once(monkeypatch):
    reads = []

    def counted(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        reads.append(len(tensors))
        return list(tensors)

    monkeypatch.setattr("engine.sampler.to_host", counted)
    driver = MODEL.driver()
    driver.add("greedy", PROMPT, logprobs=2)
    driver.add("drawn", PROMPT[:9], temperature=1.0, top_p=0.9, presence_penalty=0.5, prompt_logprobs=3)
    driver.add("scored", PROMPT[:20], max_tokens=0, prompt_logprobs=0)
    while driver.core.has_work:
        before = len(reads)
        driver.step()
        assert len(reads) - before <= 1
    assert len(reads) >= 8


def test_stats_count_what_happened():
    driver = MODEL.driver()
    driver.add("a", PROMPT, max_tokens=4)
    driver.step()
    stats = driver.core.stats()
    assert (stats.running, stats.waiting, stats.admitted) == (1, 0, ["a"])
    assert stats.step == StepShape(phase="prefill", rows=stats.rows_total)
    assert stats.blocks_used == stats.shared_blocks_used + stats.window_blocks_used > 0
    driver.run()
    after = driver.core.stats()
    assert after.step.phase == "decode"
    assert sum(after.step.rows) <= len(after.rows_total), "at most one row per loop"
    assert after.blocks_used == 0
    assert after.blocks_cached > 0
    assert after.steps_total == driver.passes
    assert after.rows_total[0] == len(PROMPT) + 3
    assert after.prefix_query_tokens_total == len(PROMPT)

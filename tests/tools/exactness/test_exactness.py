"""Bits are the same in any crowd, and every bug that would change them is noticed."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from itertools import islice

import numba
import numpy as np
import pytest
import torch

import tools.exactness.case as case_module
from engine.messages import RequestOutput
from tests.tools.exactness.mutations import MUTATIONS, Mutation, draws_depend_on_the_step
from tools.exactness.__main__ import run_all
from tools.exactness.case import compare, run_case, seeded
from tools.exactness.one_seed import Answers, meet_crowd
from tools.exactness.results import Run, page
from tools.exactness.setting import Setting
from tools.exactness.situations import SITUATIONS, Totals
from tools.exactness.watching import Story
from tools.simulation.failure import SimulationError, WrongResultError

CASES = int(os.environ.get("EXACTNESS_CASES", "12"))
MOST_CASES = 40  # in which a broken engine must be found out


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def test_bits_are_the_same_in_every_situation(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_all(seed=5, cases=CASES, crowds=12)
    assert not run.failures
    assert not run.totals.missing
    assert run.totals.compared > 20 * CASES
    assert len(run.answers.distinct) == 1
    assert run.answers.in_company > 4
    assert run.passed


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_bugs_are_found_by_bits_alone(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at the scheduler's books."""
    monkeypatch.setattr(case_module, "check", lambda scheduler: None)
    monkeypatch.setattr(case_module, "check_idle", lambda scheduler: None)
    mutation(monkeypatch)
    with pytest.raises(SimulationError, match=r"WrongResultError: .*(NaN|differ|alone)"):
        _run_cases()


def _run_cases() -> None:
    for number in islice(filter(_has_much_to_do, range(1000)), MOST_CASES):
        run_case(0, number)


def _has_much_to_do(number: int) -> bool:
    """Whether a case has later loops with a prefix cache, and several long sequences at once."""
    setting = Setting.draw(seeded(0, number))
    options, checkpoint = setting.options, setting.checkpoint
    return (
        checkpoint is not None
        and checkpoint["model_type"] == "iquestpltcoder"
        and checkpoint["plt_num_loops"] >= 2
        and checkpoint["plt_clp_shift"] == 1
        and checkpoint["plt_window_size"][0] * checkpoint["num_hidden_layers"] <= 10
        and options.prefix_caching
        and options.max_num_seqs >= 3
        and options.block_size in (3, 4, 5, 8)
        and setting.max_prompt >= 60
    )


def story(tokens: list[int], logits: list[list[float]], reason: str | None = "length") -> Story:
    ends: list[str | None] = [None] * (len(tokens) - 1) + [reason]
    outputs = [
        RequestOutput(request_id="1", token_ids=[token], finish_reason=end)
        for token, end in zip(tokens, ends, strict=True)
    ]
    return Story(outputs, [np.array(row, np.float32) for row in logits])


ALONE = story([1, 0], [[0.0, 1.0], [2.0, 0.5]])


@pytest.mark.parametrize(
    ("crowd", "complaint"),
    [
        (story([1, 0], [[0.0, 1.0], [2.0, 0.50000006]]), "1 logits behind token 1 differ, by up to 5.96e-08"),
        (story([1, 0], [[-0.0, 1.0], [2.0, 0.5]]), "0 logits behind token 0 differ"),
        (story([1, 0], [[0.0, 1.0], [2.0, np.nan]]), "1 logits behind token 1 are NaN"),
        (story([1, 1], [[0.0, 1.0], [2.0, 0.5]]), r"tokens \[1, 1\], alone \[1, 0\]"),
        (story([1, 0], [[0.0, 1.0], [2.0, 0.5]], "stop"), "output .*stop"),
        (story([1], [[0.0, 1.0]]), "output"),
        (story([1, 0, 1], [[0.0, 1.0], [2.0, 0.5], [0.0, 1.0]]), "there is a token 2, but alone there are 2"),
    ],
)
def test_a_last_bit_is_a_difference(crowd: Story, complaint: str) -> None:
    with pytest.raises(WrongResultError, match=complaint):
        compare(crowd, ALONE)


def test_an_aborted_request_is_compared_as_far_as_it_got() -> None:
    compare(story([1], [[0.0, 1.0]], None), ALONE)
    compare(Story(), ALONE)
    compare(ALONE, ALONE)


def test_a_situation_that_never_occurred_fails_the_run() -> None:
    totals = Totals(cases=1, compared=5)
    totals.situations.update(list(SITUATIONS)[1:])
    assert totals.missing == [next(iter(SITUATIONS))]
    answers = Answers(crowds=3, distinct={b"x"}, in_company=2)
    run = Run(0, totals, answers, [], 1.0, "a machine", "abc", date(2026, 1, 2))
    assert not run.passed
    totals.situations.update(totals.missing)
    assert run.passed
    assert not replace(run, failures=["WrongResultError: x\nagain: y"]).passed
    assert not replace(run, answers=Answers(3, {b"x", b"y"}, 2)).passed
    text = page(replace(run, failures=["WrongResultError: x\nagain: y"]))
    assert "* `WrongResultError: x`, `again: y`" in text
    assert "abc" in text


def test_another_answer_is_another_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control of the one seed: draws that depend on the crowd."""
    answers = Answers()
    draws_depend_on_the_step(monkeypatch)
    for number in range(1, 6):
        meet_crowd(0, number, answers)
    assert len(answers.distinct) > 1


def test_a_failure_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    draws_depend_on_the_step(monkeypatch)
    with pytest.raises(SimulationError, match=r"python -m tools\.exactness --seed 0 --case \d+"):
        _run_cases()

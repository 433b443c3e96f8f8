"""What is said of the number of loops is never surer than the documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.estimates import Estimates
from diagnostics.verdict import FEW_DOCUMENTS, Verdict, decide
from tests.diagnostics.test_estimates import document


def verdict(number: int, means: list[float], spread: float, seed: int = 0) -> Verdict:
    """Of documents whose losses scatter about the means, each loop's by itself."""
    generator = np.random.default_rng(seed)
    documents = [
        document((np.array(means) + spread * generator.standard_normal(len(means))).tolist(), 100)
        for _ in range(number)
    ]
    return decide(Estimates.of(documents, seed=0), len(means), 100 * number)


def test_a_clear_difference_in_many_documents_is_supported():
    found = verdict(60, [3.0, 2.0, 2.5], 0.1)
    assert (found.best_loops, found.runner_up, found.certainty) == (2, 3, "supported")
    assert found.lead is not None
    assert found.lead.low is not None
    assert found.lead.high is not None
    assert 0.4 < found.lead.low < found.lead.value < found.lead.high < 0.6
    assert found.share_of_resamples == 1.0
    assert found.documents_needed is None
    text = " ".join(found.sentences)
    assert "lowest after 2 loops" in text
    assert "all 1,000 resamples" in text
    assert "one set of weights" in text
    assert "One loop more" not in text


def test_few_documents_give_a_hint_only():
    found = verdict(6, [3.0, 2.0], 0.1)
    assert (found.best_loops, found.certainty) == (2, "rough")
    assert found.documents_needed == FEW_DOCUMENTS
    assert "hint" in " ".join(found.sentences)


def test_one_document_gives_no_uncertainty_and_says_so():
    found = verdict(1, [3.0, 2.0], 0.0)
    assert (found.best_loops, found.certainty, found.share_of_resamples) == (2, "no uncertainty", None)
    assert found.lead is not None
    assert (found.lead.low, found.lead.high) == (None, None)
    text = " ".join(found.sentences)
    assert "no uncertainty to be had" in text
    assert "interval" not in found.sentences[0]


def test_a_difference_within_its_interval_decides_nothing():
    found = verdict(40, [2.02, 2.0], 0.3, seed=1)
    assert found.certainty == "undecided"
    assert found.share_of_resamples is not None
    assert found.share_of_resamples < 1
    assert "does not decide" in " ".join(found.sentences)
    assert "all 1,000" not in " ".join(found.sentences)


def test_the_runner_up_by_mean_need_not_be_the_only_rival():
    """Loop 3 is worse on the whole, but scatters so much that it can't be ruled out."""
    generator = np.random.default_rng(0)
    documents = [document([2.2, 2.0, 2.4 + 3 * float(generator.standard_normal())], 100) for _ in range(40)]
    found = decide(Estimates.of(documents, seed=0), 3, 4000)
    assert found.certainty == "undecided"


def test_documents_needed_are_about_as_many_as_it_takes():
    few = verdict(25, [2.1, 2.0], 0.3, seed=3)
    assert few.certainty == "undecided"
    assert few.documents_needed is not None
    assert few.lead is not None
    assert few.lead.low is not None
    assert few.lead.high is not None
    half_width = (few.lead.high - few.lead.low) / 2
    assert few.documents_needed == pytest.approx(25 * (half_width / few.lead.value) ** 2, abs=1)


def test_no_number_is_promised_for_a_difference_of_next_to_nothing():
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(40)
    noise -= noise.mean() - 1e-6
    documents = [document([2.0 + float(each), 2.0], 10) for each in noise]
    found = decide(Estimates.of(documents, seed=0), 2, 400)
    assert found.documents_needed is None
    assert "more than 100 times" in " ".join(found.sentences)


def test_one_loop_leaves_no_choice():
    found = verdict(30, [2.0], 0.1)
    assert (found.certainty, found.runner_up, found.lead) == ("one loop", None, None)
    assert "nothing to choose" in " ".join(found.sentences)


def test_a_loop_beyond_the_models_own_has_no_part_in_it():
    documents = [document([3.0, 2.0, 1.0], 10) for _ in range(30)]
    found = decide(Estimates.of(documents, seed=0), 2, 300)
    assert found.best_loops == 2
    assert "would lower the loss by 1.0000 (95 % interval 1.0000 to 1.0000)" in " ".join(found.sentences)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.0, 1.0], "lower the loss by 1.0000 (95 % interval 0."),
        ([1.0, 2.0], "raise the loss by 1.0000 (95 % interval 0."),
        ([2.0, 1.97], "lower the loss by 0.0300 (95 % interval -0."),
        ([2.0, 2.03], "raise the loss by 0.0300 (95 % interval -0."),
    ],
)
def test_the_change_by_one_more_loop_and_its_interval_have_one_sign(losses, said):
    noise = np.random.default_rng(0).standard_normal(30)
    noise -= noise.mean()
    documents = [document([losses[0] + 0.4 * float(each), losses[1]], 10) for each in noise]
    found = decide(Estimates.of(documents, seed=0), 1, 300)
    assert said in " ".join(found.sentences)


@settings(max_examples=40, deadline=None)
@given(
    number=st.integers(1, 40),
    means=st.lists(st.floats(0.5, 4), min_size=1, max_size=4),
    spread=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_it_is_never_surer_than_the_data(number, means, spread, seed):
    found = verdict(number, means, spread, seed)
    if found.certainty == "supported":
        assert number >= FEW_DOCUMENTS
        assert found.lead is not None
        assert found.lead.low is not None
        assert found.lead.low > 0
        assert found.share_of_resamples is not None
        assert found.share_of_resamples > 0.95
    if number == 1 and len(means) > 1:
        assert found.certainty == "no uncertainty"
    assert 1 <= found.best_loops <= len(means)

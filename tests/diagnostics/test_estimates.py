"""Means of a corpus and their intervals."""

import numpy as np
import pytest

from diagnostics.estimates import Estimates
from diagnostics.metrics import METRICS, Sums


def document(losses: list[float], count: int, gate: float | None = None) -> Sums:
    """One whose mean loss after each loop is given."""
    sums = Sums(len(losses))
    for loop, loss in enumerate(losses, start=1):
        sums.add("loss", loop, loss * count, count)
        if loop > 1:
            sums.add("gain", loop, (losses[loop - 2] - loss) * count, count)
        if gate is not None and loop > 1:
            sums.add("gate", loop, gate * count, count)
    return sums


def test_a_mean_is_over_all_tokens_not_over_documents():
    estimates = Estimates.of([document([1.0, 3.0], 30), document([2.0, 1.0], 10)], seed=0)
    found = [estimates.get("loss", loop) for loop in (1, 2)]
    assert [estimate.value for estimate in found if estimate] == pytest.approx([1.25, 2.5])
    assert estimates.get("gate", 2) is None
    assert estimates.num_documents == 2


def test_one_document_has_no_interval():
    estimate = Estimates.of([document([1.0], 5)], seed=0).get("loss", 1)
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high, estimate.documents) == (1.0, None, None, 1)


def test_equal_documents_have_an_interval_of_no_width():
    estimate = Estimates.of([document([1.5], count) for count in (3, 9, 27)], seed=0).get("loss", 1)
    assert estimate is not None
    assert (estimate.low, estimate.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_a_quantity_that_some_documents_lack_is_estimated_from_the_others():
    documents = [document([1.0, 1.0], 4, gate) for gate in (0.2, None, 0.4, None)]
    estimate = Estimates.of(documents, seed=0).get("gate", 2)
    assert estimate is not None
    assert (estimate.value, estimate.documents) == (pytest.approx(0.3), 2)
    assert estimate.low == pytest.approx(0.2)
    only = Estimates.of([document([1.0, 1.0], 4, gate) for gate in (0.2, None)], seed=0).get("gate", 2)
    assert only is not None
    assert (only.low, only.high, only.documents) == (None, None, 1)


def test_the_seed_decides():
    documents = [document([float(n % 7)], 3 + n) for n in range(20)]
    first, second, third = (Estimates.of(documents, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.resampled, second.resampled, equal_nan=True)
    assert not np.array_equal(first.resampled, third.resampled, equal_nan=True)
    assert first.get("loss", 1) == second.get("loss", 1)


def test_resamples_are_those_of_drawing_documents_one_by_one():
    """The same distribution as the loop that the name means."""
    generator = np.random.default_rng(5)
    losses, counts = generator.gamma(2.0, 1.0, 25), generator.integers(5, 60, 25)
    documents = [document([loss], int(count)) for loss, count in zip(losses, counts, strict=True)]
    found = Estimates.of(documents, seed=0, resamples=4000).draws("loss")[:, 0]
    plain = []
    for _ in range(4000):
        drawn = generator.integers(0, 25, 25)
        plain.append((losses[drawn] * counts[drawn]).sum() / counts[drawn].sum())
    assert found.mean() == pytest.approx(np.mean(plain), abs=0.02)
    assert found.std() == pytest.approx(np.std(plain), rel=0.06)
    np.testing.assert_allclose(
        np.quantile(found, [0.025, 0.975]), np.quantile(plain, [0.025, 0.975]), atol=0.06
    )


@pytest.mark.parametrize("number", [40])
def test_intervals_hold_the_truth_about_as_often_as_they_say(number):
    """Documents of random length from one distribution, mean 2: 300 corpora."""
    generator, held = np.random.default_rng(0), 0
    for corpus in range(300):
        documents = [
            document([float(generator.gamma(4.0, 0.5))], int(generator.integers(50, 150)))
            for _ in range(number)
        ]
        estimate = Estimates.of(documents, seed=corpus, resamples=300).get("loss", 1)
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= 2.0 <= estimate.high
    assert 0.88 <= held / 300 <= 0.985


def test_memory_of_resamples_does_not_depend_on_the_number_of_documents():
    shapes = {
        Estimates.of([document([1.0, 2.0], 3)] * number, seed=0).resampled.shape for number in (2, 50, 500)
    }
    assert shapes == {(1000, len(METRICS), 2)}

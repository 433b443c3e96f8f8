"""The running softmax's vectors: right, exactly `exp`'s bits, and the same for any company."""

import numpy as np
import pytest

from kernels.exponential import exp
from kernels.microkernel import LANES
from kernels.softmax_chunk import soften_chunk


def soften(scores: np.ndarray, before: float) -> tuple[np.ndarray, float, float]:
    weights = scores.astype(np.float32)
    highest, total = soften_chunk(weights.ctypes.data, len(weights) // LANES, np.float32(before))
    return weights, highest, total


@pytest.mark.parametrize("vectors", [1, 2, 3, 8])
@pytest.mark.parametrize("spread", [0.1, 5.0, 60.0])
def test_weights_are_exponentials_and_sum_up(vectors: int, spread: float) -> None:
    scores = np.random.default_rng(0).normal(0, spread, vectors * LANES).astype(np.float32)
    for before in (-1e30, float(scores.max()) + 3):
        weights, highest, total = soften(scores, before)
        assert highest == max(scores.max(), np.float32(before))
        assert weights.tolist() == [exp(np.float32(score - highest)) for score in scores]
        expected = np.exp(scores.astype(np.float64) - highest)
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-37)
        assert total == pytest.approx(expected.sum(), rel=1e-5, abs=1e-37)


def test_vectors_of_unseen_keys_change_nothing() -> None:
    scores = np.random.default_rng(1).normal(0, 2, LANES).astype(np.float32)
    unseen = np.full(LANES, -1e30, np.float32)
    alone, padded = soften(scores, -1e30), soften(np.concatenate([unseen, scores, unseen]), -1e30)
    assert (alone[1], alone[2]) == (padded[1], padded[2])
    assert padded[0].tolist() == [0.0] * LANES + alone[0].tolist() + [0.0] * LANES


def test_nan_stays_nan() -> None:
    scores = np.zeros(LANES, np.float32)
    scores[LANES // 2] = np.nan
    weights, highest, total = soften(scores, -1.0)
    assert highest == 0.0
    assert np.isnan(weights[LANES // 2])
    assert np.isnan(total)

"""Estimates against what is known of the numbers they are made of."""

import random

import pytest

from tools.reliability.statistics import auc, auc_interval, percentile, slope, welch_t


def test_percentiles_are_values_that_were_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0, 0.2, 0.5, 0.99, 1)] == [1, 1, 3, 5, 5]
    assert percentile([], 0.5) == 0


def test_a_slope_is_found_and_its_interval_holds_it_nearly_always() -> None:
    rng, held = random.Random(1), 0
    for _ in range(200):
        values = [3 * t + rng.gauss(0, 5) for t in range(100)]
        found = slope(range(100), values)
        held += found.low <= 3 <= found.high
    assert 180 <= held <= 199


def test_wandering_values_without_a_trend_are_not_called_growth() -> None:
    """Errors that follow each other: the textbook's interval would miss 0 in more than half of the runs."""
    rng, missed = random.Random(2), 0
    for _ in range(200):
        values, error = [], 0.0
        for _ in range(120):
            error = 0.8 * error + rng.gauss(0, 1)
            values.append(100 + error)
        found = slope(range(120), values)
        missed += not found.low <= 0 <= found.high
    assert missed <= 30


def test_a_constant_has_no_slope() -> None:
    found = slope(range(10), [7.0] * 10)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("low", "high", "area"),
    [
        ([1, 2], [3, 4], 1),
        ([3, 4], [1, 2], 0),
        ([1, 2], [1, 2], 0.5),
        ([1, 1], [1, 1], 0.5),
        ([1, 3], [2], 0.5),
    ],
)
def test_area_under_the_curve(low: list[float], high: list[float], area: float) -> None:
    assert auc(low, high) == area


def test_the_area_of_equal_draws_is_a_half_within_its_interval() -> None:
    rng = random.Random(3)
    a, b = ([rng.expovariate(1) for _ in range(2000)] for _ in range(2))
    found = auc_interval(a, b, seed=1)
    assert found.low < 0.5 < found.high
    assert 0.02 < found.high - found.low < 0.05
    shifted = auc_interval(a, [value + 1 for value in b], seed=1)
    assert shifted.low > 0.6


def test_welch_tells_a_shift_from_noise() -> None:
    rng = random.Random(4)
    a, b = ([rng.gauss(0, 1) for _ in range(5000)] for _ in range(2))
    assert abs(welch_t(a, b)) < 3
    assert welch_t([value + 0.2 for value in a], b) > 5
    assert welch_t([1.0, 1.0], [1.0, 1.0]) == 0

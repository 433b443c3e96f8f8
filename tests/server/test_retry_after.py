"""Estimates for `Retry-After`: within bounds, never less for more, and from what the engine has shown lately."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.retry_after import (
    HORIZON_S,
    MAX_S,
    MIN_S,
    UNKNOWN_LOAD_S,
    UNKNOWN_QUEUE_S,
    LoadEstimator,
    QueueEstimator,
    whole_seconds,
)

Waited = st.floats(0, 1e6)
TookUp = st.integers(1, 1 << 20)
Histories = st.lists(st.one_of(Waited, TookUp), max_size=60)
Queue = st.tuples(st.integers(0, 100_000), st.integers(0, 1 << 30))


def after(history: list[float | int]) -> QueueEstimator:
    """An estimator that has seen waiting (floats, seconds) and sequences taken up (integers, tokens)."""
    estimator = QueueEstimator()
    for entry in history:
        if isinstance(entry, int):
            estimator.took_up(entry)
        else:
            estimator.waited(entry)
    return estimator


@given(Histories, Queue)
def test_every_estimate_is_a_retry_after(history: list[float | int], queue: tuple[int, int]) -> None:
    seconds = after(history).seconds(*queue)
    assert seconds >= 0
    assert isinstance(whole_seconds(seconds), int)
    assert MIN_S <= whole_seconds(seconds) <= MAX_S


@given(Histories, Queue, Queue)
def test_never_less_for_a_longer_queue(
    history: list[float | int], queue: tuple[int, int], more: tuple[int, int]
) -> None:
    estimator = after(history)
    longer = estimator.seconds(queue[0] + more[0], queue[1] + more[1])
    assert longer >= estimator.seconds(*queue)


@given(st.floats(0.001, 5), st.integers(1, 10_000), st.integers(1, 200))
def test_a_steady_engine_is_extrapolated(seconds_each: float, tokens_each: int, queued: int) -> None:
    estimator = QueueEstimator()
    for _ in range(math.ceil(10 * HORIZON_S / seconds_each)):
        estimator.waited(seconds_each)
        estimator.took_up(tokens_each)
    expected = queued * seconds_each
    off_by_one = 1 + seconds_each / HORIZON_S  # the last one was taken up at this very moment
    assert expected / off_by_one / 1.01 <= estimator.seconds(queued, queued * tokens_each) <= expected * 1.01


def test_long_prompts_are_told_from_short_ones() -> None:
    estimator = after([1.0, 1000, 1.0, 1000, 1.0, 1000])
    assert estimator.seconds(2, 2000) == pytest.approx(2, rel=0.1)
    assert estimator.seconds(2, 20_000) == pytest.approx(20, rel=0.1)


def test_without_history() -> None:
    assert QueueEstimator().seconds(0, 0) == 0
    assert QueueEstimator().seconds(1, 5) == UNKNOWN_QUEUE_S
    assert whole_seconds(0) == MIN_S


def test_a_stalled_engine_makes_the_estimate_grow_to_the_most() -> None:
    estimator = after([0.1, 100] * 50)
    grown = []
    for _ in range(12):
        grown.append(estimator.seconds(100, 10_000))
        estimator.waited(HORIZON_S)
    assert grown == sorted(grown)
    assert whole_seconds(grown[0]) <= 11
    assert whole_seconds(grown[-1]) == MAX_S


def test_one_that_never_took_anything_up_comes_to_the_most_too() -> None:
    assert whole_seconds(after([HORIZON_S * 20]).seconds(1, 1)) == MAX_S


def test_a_load_is_expected_to_take_as_long_as_the_last() -> None:
    loading = LoadEstimator()
    assert loading.seconds(0) == UNKNOWN_LOAD_S
    loading.begin(100)
    assert loading.seconds(102) == UNKNOWN_LOAD_S - 2
    assert loading.seconds(140) == 20  # longer than expected: half as long again
    loading.end(140)
    assert loading.seconds(5000) == 40
    loading.begin(6000)
    assert loading.seconds(6010) == 30

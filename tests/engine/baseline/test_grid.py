"""Which crowds are tried, and in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.baseline.grid import Point, contexts, points_by_worth, sequence_counts


@given(st.integers(1, 300), st.integers(1, 200_000))
def test_every_axis_ascends_to_its_limit_and_every_point_comes_once(
    max_num_seqs: int, max_model_len: int
) -> None:
    rows, columns = sequence_counts(max_num_seqs), contexts(max_model_len)
    assert rows == sorted(set(rows))
    assert columns == sorted(set(columns))
    assert (rows[0], rows[-1]) == (1, max_num_seqs)
    assert (columns[0], columns[-1]) == (min(128, max_model_len), max_model_len)
    points = points_by_worth(max_num_seqs, max_model_len)
    assert sorted(points) == sorted(Point(row, column) for row in rows for column in columns)


@given(st.integers(2, 300), st.integers(129, 200_000))
def test_the_smallest_comes_first_then_the_largest_then_the_other_corners(
    max_num_seqs: int, max_model_len: int
) -> None:
    points = points_by_worth(max_num_seqs, max_model_len)
    assert points[:2] == [Point(1, 128), Point(max_num_seqs, max_model_len)]
    assert set(points[2:4]) == {Point(1, max_model_len), Point(max_num_seqs, 128)}


@pytest.mark.parametrize(
    ("limits", "points"),
    [
        ((1, 1), [Point(1, 1)]),
        ((1, 128), [Point(1, 128)]),
        ((2, 2), [Point(1, 2), Point(2, 2)]),
        ((1, 600), [Point(1, 128), Point(1, 600), Point(1, 512)]),
        ((5, 100), [Point(1, 100), Point(5, 100), Point(2, 100), Point(4, 100)]),
    ],
)
def test_small_limits(limits: tuple[int, int], points: list[Point]) -> None:
    assert points_by_worth(*limits) == points

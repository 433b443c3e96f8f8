"""What is between and beyond the calibrated crowds, and what fewer loops and shadow passes do to it."""

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.baseline.grid import Point, points_by_worth
from engine.baseline.ratio_table import MOST_MOVE, MOVE, Cell, RatioTable

POINTS = points_by_worth(64, 8192)
CELLS = st.dictionaries(
    st.sampled_from(POINTS),
    st.builds(Cell, st.floats(1e-4, 10), st.floats(1, 3)),
    min_size=1,
)
SEQUENCES = st.integers(1, 1000)
CONTEXTS = st.floats(1, 1e6)


def table_of(cells: dict[Point, Cell], num_loops: int = 3) -> RatioTable:
    table = RatioTable(num_loops, POINTS)
    table.put(cells)
    return table


def full(table: RatioTable, sequences: int, context: float) -> float:
    ratio = table.ratio([sequences] * table.num_loops, context)
    assert ratio is not None
    return ratio


@given(CELLS)
def test_exact_where_it_was_calibrated(cells: dict[Point, Cell]) -> None:
    table = table_of(cells)
    for point, cell in cells.items():
        assert full(table, point.sequences, point.context) == pytest.approx(cell.ratio)


@given(CELLS, SEQUENCES, CONTEXTS)
def test_never_beyond_what_was_found(cells: dict[Point, Cell], sequences: int, context: float) -> None:
    ratios = [cell.ratio for cell in cells.values()]
    assert min(ratios) - 1e-9 <= full(table_of(cells), sequences, context) <= max(ratios) + 1e-9


@given(CELLS, CONTEXTS)
def test_beyond_the_calibrated_range_the_edge_holds(cells: dict[Point, Cell], context: float) -> None:
    table = table_of(cells)
    assert full(table, 64, context) == full(table, 10_000, context)
    longest, shortest = max(p.context for p in cells), min(p.context for p in cells)
    assert full(table, 5, longest) == pytest.approx(full(table, 5, 100 * longest))
    assert full(table, 5, shortest) == pytest.approx(full(table, 5, shortest / 100))


@given(st.floats(1, 3), st.floats(1, 3), st.integers(2, 15), CONTEXTS)
def test_between_two_crowds_the_ratio_goes_one_way(
    low: float, high: float, sequences: int, context: float
) -> None:
    table = table_of({Point(1, 128): Cell(1, low), Point(16, 128): Cell(1, high)})
    values = [full(table, n, context) for n in (1, sequences, sequences + 1, 16)]
    assert values == sorted(values, reverse=low > high) or math.isclose(low, high)
    assert full(table, 4, context) == pytest.approx(math.sqrt(low * high)), "halfway, in logarithms"


@given(st.floats(1, 3), st.floats(1, 3))
def test_between_two_contexts_too(low: float, high: float) -> None:
    table = table_of({Point(1, 128): Cell(1, low), Point(1, 2048): Cell(1, high)})
    assert full(table, 7, 512) == pytest.approx(math.sqrt(low * high))


def test_without_cells_nothing_is_known_but_that_one_loop_is_one_loop() -> None:
    table = RatioTable(3, POINTS)
    assert table.ratio([4, 4, 4], 100) is None
    assert table.ratio([4, 1], 100) is None
    assert table.ratio([4], 100) == 1.0


@given(CELLS, SEQUENCES, CONTEXTS)
def test_one_loop_costs_the_same_both_ways(cells: dict[Point, Cell], sequences: int, context: float) -> None:
    assert table_of(cells).ratio([sequences], context) == 1.0


@given(CELLS, SEQUENCES, CONTEXTS)
def test_with_more_loops_the_sequential_way_takes_longer(
    cells: dict[Point, Cell], sequences: int, context: float
) -> None:
    table = table_of(cells)
    ratios = [table.ratio([sequences] * loops, context) or 0 for loops in (1, 2, 3)]
    assert ratios[0] == 1.0
    assert all(before <= after + 1e-9 for before, after in itertools.pairwise(ratios))


@given(
    st.integers(2, 5),
    st.floats(1e-4, 1),
    st.floats(1e-6, 1),
    st.lists(st.sampled_from([1, 2, 4, 8, 16, 32, 64]), min_size=1, max_size=5),
)
def test_budgets_are_exact_where_a_pass_costs_a_constant_and_something_per_row(
    num_loops: int, constant: float, per_row: float, crowds: list[int]
) -> None:
    assume(len(crowds) <= num_loops)
    crowds = sorted(crowds, reverse=True)
    table = RatioTable(num_loops, POINTS)
    cells = {}
    for point in POINTS:
        whole = constant + per_row * num_loops * point.sequences
        cells[point] = Cell(whole, num_loops * (constant + per_row * point.sequences) / whole)
    table.put(cells)
    sequential = sum(constant + per_row * sequences for sequences in crowds)
    assert table.ratio(crowds, 300) == pytest.approx(sequential / (constant + per_row * sum(crowds)))


def test_a_shadow_pass_moves_the_nearest_cell_a_little() -> None:
    near, far = Point(4, 512), Point(64, 512)
    table = table_of({near: Cell(0.01, 1.5), far: Cell(0.04, 2.0)})
    table.observe([5, 5, 5], 600, 0.01, 0.01 * full(table, 5, 600) * 1.2)
    assert table.cells[near].ratio == pytest.approx(1.5 * 1.2**MOVE)
    assert table.cells[near].parallel_seconds == 0.01
    assert table.cells[far] == Cell(0.04, 2.0)


def test_shadow_passes_bring_a_wrong_cell_to_what_they_find() -> None:
    table = table_of({Point(4, 512): Cell(0.01, 1.1)})
    for _ in range(100):
        table.observe([4, 4, 4], 512, 0.01, 0.018)
    assert full(table, 4, 512) == pytest.approx(1.8, rel=0.01)


@pytest.mark.parametrize(("sequential", "factor"), [(1000.0, MOST_MOVE), (1e-9, 1 / MOST_MOVE)])
def test_a_hiccup_counts_no_more_than_a_surprise(sequential: float, factor: float) -> None:
    table = table_of({Point(1, 128): Cell(0.01, 1.5)})
    table.observe([1, 1, 1], 128, 0.01, sequential)
    assert table.cells[Point(1, 128)].ratio == pytest.approx(1.5 * factor**MOVE)


def test_without_a_calibration_the_first_shadow_pass_of_all_loops_makes_a_cell() -> None:
    table = RatioTable(3, POINTS)
    table.observe([4, 3], 512, 0.01, 0.02)
    assert not table.cells, "from fewer loops nothing follows for all of them"
    table.observe([4, 4, 4], 700, 0.01, 0.02)
    assert table.cells == {Point(4, 512): Cell(0.01, 2.0)}


def test_a_cell_that_did_not_fit_begins_with_what_its_neighbours_say() -> None:
    table = table_of({Point(1, 512): Cell(0.01, 1.5)})
    table.observe([64, 64, 64], 512, 0.02, 0.02 * 1.5)
    assert table.cells[Point(64, 512)] == Cell(pytest.approx(0.01), pytest.approx(1.5))


def test_more_than_a_pass_per_loop_is_noise() -> None:
    table = table_of({Point(1, 512): Cell(0.01, 9.1), Point(64, 512): Cell(0.01, 1.5)})
    assert full(table, 1, 512) == pytest.approx(3.0)
    for _ in range(50):
        table.observe([1, 1, 1], 512, 0.01, 0.09)
    assert full(table, 1, 512) == pytest.approx(3.0)


def test_a_pass_of_one_loop_moves_nothing() -> None:
    table = table_of({Point(1, 512): Cell(0.01, 1.5)})
    table.observe([1], 512, 0.01, 0.05)
    assert table.cells == {Point(1, 512): Cell(0.01, 1.5)}

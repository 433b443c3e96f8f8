"""Which rows of one sequence are chosen, against the three rules of readiness stated row by row."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.loop_layout import LoopLayout
from scheduler.policy import Span, parallel_spans, ready_stop, sequential_spans
from scheduler.sequence import Sequence


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    """A sequence somewhere between its first row and its newest token; later loops are nowhere ahead."""
    layout = LoopLayout(draw(st.integers(1, 4)), draw(st.integers(0, 1)), 4, 2, 4)
    length = draw(st.integers(1, 12))
    sequence = Sequence("a", [1] * length, length, layout, every_loop=draw(st.booleans()))
    sequence.next = [draw(st.integers(0, length))]
    for _ in range(layout.num_loops - 1):
        most = min(sequence.next[0], sequence.next[-1] + layout.offset)
        sequence.next.append(draw(st.integers(0, most)))
    return sequence


def is_ready(sequence: Sequence, loop: int, position: int, leading: int) -> bool:
    """Rules 2 and 3 for one row, given how far loop 0 will be."""
    before = sequence.next[loop - 1] > position - sequence.layout.offset
    return position < len(sequence) and position < leading and before


def as_rows(spans: list[Span]) -> list[tuple[int, int]]:
    return [(loop, position) for loop, start, stop in spans for position in range(start, stop)]


@settings(max_examples=400, deadline=None)
@given(sequence=sequences(), leading=st.integers(0, 12))
def test_rows_are_ready_up_to_a_position(sequence: Sequence, leading: int) -> None:
    for loop in range(1, sequence.layout.num_loops):
        ready = [position for position in range(13) if is_ready(sequence, loop, position, leading)]
        assert ready == list(range(ready_stop(sequence, loop, leading)))


@settings(max_examples=600, deadline=None)
@given(sequence=sequences(), budget=st.integers(0, 30))
def test_parallel_takes_one_row_of_loop_0_and_deepest_loops_first(sequence: Sequence, budget: int) -> None:
    expected: list[tuple[int, int]] = []
    length, last = len(sequence), sequence.layout.num_loops - 1
    if sequence.next[0] < length and budget > 0:
        expected.append((0, sequence.next[0]))
    leading = sequence.next[0] + len(expected)
    for loop in range(last, 0, -1):
        position = sequence.next[loop]
        while len(expected) < budget and is_ready(sequence, loop, position, leading):
            expected.append((loop, position))
            position += 1
        newest = (last, length - 1)
        if sequence.every_loop and loop == last and newest in expected:
            between = range(1, last)
            wanted = [(middle, p) for middle in between for p in range(sequence.next[middle], length)]
            possible = all(is_ready(sequence, middle, p, leading) for middle, p in wanted)
            if not possible or len(expected) + len(wanted) > budget:
                expected.remove(newest)
    spans = parallel_spans(sequence, budget)
    assert sorted(as_rows(spans)) == sorted(expected)
    assert [loop for loop, _, _ in spans] == sorted({loop for loop, _ in expected})


@settings(max_examples=400, deadline=None)
@given(sequence=sequences(), budget=st.integers(0, 30))
def test_sequential_takes_the_deepest_loop_that_is_ready(sequence: Sequence, budget: int) -> None:
    """In lock-step: no position is done by a loop before the one ahead of it has done it."""
    expected: list[tuple[int, int]] = []
    for loop in range(sequence.layout.num_loops - 1, 0, -1):
        position = sequence.next[loop]
        while (
            len(expected) < budget
            and position < sequence.next[loop - 1]
            and is_ready(sequence, loop, position, sequence.next[0])
        ):
            expected.append((loop, position))
            position += 1
        if expected:
            break
    if not expected and sequence.next[0] < len(sequence) and budget > 0:
        expected = [(0, sequence.next[0])]
    assert as_rows(sequential_spans(sequence, budget)) == expected


def test_the_newest_position_waits_while_a_loop_between_waits_for_another() -> None:
    """There are rows enough for all that is left, but loop 2's last depends on loop 1's of the same step."""
    sequence = Sequence("a", [1] * 10, 10, LoopLayout(4, 1, 4, 2, 4), every_loop=True)
    sequence.next = [10, 8, 9, 9]
    assert parallel_spans(sequence, 30) == [(1, 8, 10)]
    sequence.next = [10, 9, 9, 9]
    assert parallel_spans(sequence, 30) == [(1, 9, 10), (2, 9, 10), (3, 9, 10)]

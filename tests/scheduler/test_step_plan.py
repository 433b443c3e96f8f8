"""What a plan says about itself."""

import pytest

from scheduler.loop_layout import LoopLayout
from scheduler.sequence import Sequence
from scheduler.step_plan import RowSegment, StepPlan

LAYOUT = LoopLayout(num_loops=2, offset=1, window=4, num_layers=1, block_size=2)
ONE, OTHER = (Sequence(name, [1, 2, 3], 3, LAYOUT) for name in ("one", "other"))


def rows(sequence: Sequence, loop: int, start: int, stop: int) -> RowSegment:
    return RowSegment(sequence, loop, start, stop, [], [])


DECODING = [rows(ONE, 0, 5, 6), rows(ONE, 1, 4, 5)]
ON_PROMPT = [rows(OTHER, 0, 0, 3), rows(OTHER, 1, 0, 1)]


@pytest.mark.parametrize(
    ("segments", "admitted", "phase"),
    [
        (DECODING, [], "decode"),
        (ON_PROMPT, [], "prefill"),
        (DECODING + ON_PROMPT, [], "mixed"),
        (DECODING, [ONE], "prefill"),
        ([*DECODING, rows(OTHER, 0, 0, 1)], [OTHER], "mixed"),
    ],
)
def test_phase(segments: list[RowSegment], admitted: list[Sequence], phase: str) -> None:
    assert StepPlan(segments, admitted=admitted).phase == phase


def test_rows_by_loop() -> None:
    assert StepPlan(DECODING + ON_PROMPT).rows_by_loop(3) == [4, 2, 0]

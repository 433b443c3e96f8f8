"""What one step computes: the scheduler's answer, the runner's order."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from scheduler.sequence import Sequence

Phase = Literal["prefill", "decode", "mixed"]


@dataclass(frozen=True, slots=True)
class RowSegment:
    """Rows of one (sequence, loop) at consecutive positions ``[start, stop)``.

    Attributes:
        input_slots: per row, the carry slot of ``H[loop-1][position - offset]``; empty for loop 0.
        output_slots: per row, the carry slot that takes ``H[loop][position]``, or NO_SLOT; empty for the last loop.
    """

    sequence: Sequence
    loop: int
    start: int
    stop: int
    input_slots: list[int]
    output_slots: list[int]

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class CarryRestore:
    """Before the pass, copy the H vector kept beside `block` into carry slot `slot`."""

    block: int
    slot: int


@dataclass(slots=True)
class StepPlan:
    """One pass.

    Attributes:
        segments: rows of a sequence lie side by side, loops ascending.
        restores: carry vectors to bring back from the prefix cache first.
        admitted: sequences taken from the queue for this pass.
        preempted: sequences that lost everything while this plan was made.
    """

    segments: list[RowSegment] = field(default_factory=list)
    restores: list[CarryRestore] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        return sum(segment.num_rows for segment in self.segments)

    @property
    def sequences(self) -> list[Sequence]:
        """Those that have rows, in the order of their rows."""
        return list(dict.fromkeys(segment.sequence for segment in self.segments))

    @property
    def phase(self) -> Phase:
        """Whether a non-empty plan works on prompts, on new tokens, or on both for different sequences.

        A sequence that has just been admitted, or has several rows of one loop, is on its prompt, or on what it has to
        compute again after a preemption.
        """
        on_prompt = {segment.sequence for segment in self.segments if segment.num_rows > 1}
        on_prompt.update(self.admitted)
        if not on_prompt:
            return "decode"
        return "prefill" if all(segment.sequence in on_prompt for segment in self.segments) else "mixed"

    def rows_by_loop(self, num_loops: int) -> list[int]:
        """Rows of each of so many loops."""
        rows = [0] * num_loops
        for segment in self.segments:
            rows[segment.loop] += segment.num_rows
        return rows

    def part(self, sequences: Iterable[Sequence]) -> "StepPlan":
        """The rows and restores of some of the sequences only; who came and went stays with the whole."""
        kept = dict.fromkeys(sequences)
        slots = {slot for sequence in kept for carry in sequence.carries for slot in carry.slots}
        return StepPlan(
            [segment for segment in self.segments if segment.sequence in kept],
            [restore for restore in self.restores if restore.slot in slots],
        )

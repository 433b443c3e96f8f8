"""Decode passes over sequences that nobody asked for, in blocks that nobody holds.

Everything is taken and given back within one measurement, between two steps; the books are then what they were, down
to the order of the list of free blocks. Blocks that hold cached prefixes are never touched. Rows read the zero carry
slot and leave their H nowhere, so no carry slot is needed either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.baseline.grid import Point
from engine.runner import ModelRunner
from scheduler.block_pool import BlockPool
from scheduler.carry_pool import NO_SLOT, ZERO_SLOT
from scheduler.loop_layout import LoopLayout, plan_recompute
from scheduler.scheduler import Scheduler
from scheduler.sequence import BlockTable, Sequence
from scheduler.step_plan import RowSegment, StepPlan


@dataclass(frozen=True, slots=True)
class Crowd:
    """One token more for every sequence, in two ways.

    Attributes:
        parallel: one pass with all loops.
        sequential: a pass per loop, in order.
    """

    parallel: StepPlan
    sequential: list[StepPlan]


def passes_by_loop(plan: StepPlan) -> list[StepPlan]:
    """The rows of a decode pass as one pass per loop, in order."""
    by_loop: dict[int, list[RowSegment]] = {}
    for segment in plan.segments:
        by_loop.setdefault(segment.loop, []).append(segment)
    return [StepPlan(by_loop[loop]) for loop in sorted(by_loop)]


class SyntheticCrowds:
    """Makes crowds over memory that has been written: all untouched pages are one page of zeros in the CPU's cache.

    Attributes:
        written: blocks written here so far.
        most_written: how many there may be, since what is written once stays taken from the machine's memory.
    """

    def __init__(self, runner: ModelRunner, scheduler: Scheduler, most_written: int) -> None:
        self._runner = runner
        self._pool: BlockPool = scheduler.blocks
        self._layout: LoopLayout = scheduler.layout
        self.written: set[int] = set()
        self.most_written = most_written

    def blocks_for(self, point: Point) -> int:
        """Blocks of a crowd. None are shared: a block that many read would be read from the CPU's cache."""
        return point.sequences * sum(len(indices) for indices in self._indices(point.context))

    @contextmanager
    def crowd(self, point: Point) -> Iterator[Crowd | None]:
        """A crowd for as long as the context lasts; None if free blocks or the memory allowed are too few."""
        count = self.blocks_for(point)
        blocks = self._pool.allocate(count) if count <= len(self._pool.free) else None
        if blocks is None:
            yield None
            return
        try:
            yield self._crowd(point, blocks) if self._write(blocks) else None
        finally:
            for block in reversed(blocks):  # so that the next to come gets the blocks that it would have got
                self._pool.release(block)

    def _write(self, blocks: list[int]) -> bool:
        fresh = [block for block in blocks if block not in self.written]
        if len(self.written) + len(fresh) > self.most_written:
            return False
        if fresh:
            self._runner.write_blocks(fresh)
            self.written.update(fresh)
        return True

    def _indices(self, context: int) -> list[range]:
        """Per loop, the block indices that the row at the last position reads."""
        layout, newest = self._layout, context - 1
        last = newest // layout.block_size
        first = max(0, newest - layout.window) // layout.block_size if layout.has_windows else 0
        return [range(last + 1), *[range(first, last + 1)] * (layout.num_loops - 1)]

    def _crowd(self, point: Point, blocks: list[int]) -> Crowd:
        indices = self._indices(point.context)
        plan = StepPlan()
        for number in range(point.sequences):
            # Dealt like cards: sequences that grow together have no long runs of neighbouring blocks either.
            own = iter(blocks[number :: point.sequences])
            sequence = self._sequence(number, point.context)
            sequence.tables = [BlockTable(each.start, [next(own) for _ in each]) for each in indices]
            plan.segments += self._rows(sequence)
        return Crowd(plan, passes_by_loop(plan))

    def _sequence(self, number: int, context: int) -> Sequence:
        token = number * 7919 % self._runner.model.config.vocab_size
        sequence = Sequence(f"calibration {number}", [token] * context, context, self._layout)
        sequence.plan = plan_recompute(self._layout, context, 0)
        return sequence

    def _rows(self, sequence: Sequence) -> list[RowSegment]:
        newest, num_loops = len(sequence) - 1, self._layout.num_loops
        return [
            RowSegment(
                sequence,
                loop,
                newest,
                newest + 1,
                [] if loop == 0 else [ZERO_SLOT],
                [] if loop == num_loops - 1 else [NO_SLOT],
            )
            for loop in range(num_loops)
        ]

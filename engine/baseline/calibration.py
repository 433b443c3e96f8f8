"""Times crowds with all loops in one pass against one loop per pass, by turns, one pair at a time."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.baseline.grid import Point
from engine.baseline.pass_clock import Clock
from engine.baseline.synthetic import SyntheticCrowds
from engine.messages import CalibratedCell
from engine.runner import ModelRunner
from scheduler.step_plan import StepPlan

ROUNDS = 7
"""Most pairs per crowd. The first doesn't count, and of the others each way goes first in half."""
STRETCH_S = 0.01
MOST_REPEATS = 8
"""A way that is quicker than `STRETCH_S` is timed several times in a row: short passes are easily disturbed."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of the two ways, one right after the other."""

    parallel: float
    sequential: float


class Calibration:
    """One run over all crowds, in rounds: each round measures one pair of every crowd that fits, in order of worth.

    Iterating measures a pair per turn, until the seconds are spent or there is nothing more to do. The budget is
    looked at between pairs, and the first pair is always measured.

    Attributes:
        spent: seconds so far, of this run's own work.
    """

    def __init__(
        self,
        runner: ModelRunner,
        crowds: SyntheticCrowds,
        points: Sequence[Point],
        seconds: float,
        clock: Clock,
    ) -> None:
        self._runner = runner
        self._crowds = crowds
        self._points = points
        self._seconds = seconds
        self._clock = clock
        self._pairs: dict[Point, list[Pair]] = {}
        self._rest = self._measure_all()
        self.spent = 0.0

    def __iter__(self) -> Iterator[None]:
        return self

    def __next__(self) -> None:
        started = self._clock()
        try:
            next(self._rest)
        finally:
            self.spent += self._clock() - started

    def cells(self) -> list[CalibratedCell]:
        """What was found, by sequences and context."""
        return [_cell(point, pairs) for point, pairs in sorted(self._pairs.items())]

    def _measure_all(self) -> Iterator[None]:
        for round_ in range(ROUNDS):
            measured = False
            for point in self._points:
                if self._pairs and self.spent >= self._seconds:
                    return
                pair = self._measure(point, parallel_first=round_ % 2 == 0)
                if pair is None:
                    continue
                measured = True
                self._pairs.setdefault(point, []).append(pair)
                yield
            if not measured:
                return

    def _measure(self, point: Point, *, parallel_first: bool) -> Pair | None:
        """Seconds of both ways; None if the crowd doesn't fit now."""
        with self._crowds.crowd(point) as crowd:
            if crowd is None:
                return None
            # Doesn't count: a pass of a running server finds in the caches what the one before left.
            first = self._time([crowd.parallel], 1)
            repeats = min(MOST_REPEATS, 1 + int(STRETCH_S / max(first, STRETCH_S / MOST_REPEATS)))
            if parallel_first:
                parallel = self._time([crowd.parallel], repeats)
                return Pair(parallel, self._time(crowd.sequential, repeats))
            sequential = self._time(crowd.sequential, repeats)
            return Pair(self._time([crowd.parallel], repeats), sequential)

    def _time(self, passes: list[StepPlan], repeats: int) -> float:
        """Seconds of these passes, mean of so many times in a row."""
        started = self._clock()
        for plan in passes * repeats:
            self._runner.run(plan)
        return (self._clock() - started) / repeats


def _cell(point: Point, pairs: list[Pair]) -> CalibratedCell:
    """Medians; a crowd's first pair meets cold memory and kernels, so it counts only where there is no other."""
    counted = pairs[1:] or pairs
    return CalibratedCell(
        sequences=point.sequences,
        context=point.context,
        parallel_seconds=statistics.median(pair.parallel for pair in counted),
        sequential_seconds=statistics.median(pair.sequential for pair in counted),
        ratio=statistics.median(pair.sequential / pair.parallel for pair in counted),
        pairs=len(counted),
    )

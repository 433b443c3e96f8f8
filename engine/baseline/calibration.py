"""Times crowds with all loops in one pass against one loop per pass, in pairs, by turns."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.baseline.grid import Point
from engine.baseline.pass_clock import Clock
from engine.baseline.synthetic import Crowd, SyntheticCrowds
from engine.messages import CalibratedCell
from engine.runner import ModelRunner
from scheduler.step_plan import StepPlan

ROUNDS = 7
"""Most visits to a crowd."""
VISIT_S = 0.03
MOST_PAIRS = 8
"""A visit whose pairs are short makes several: whatever else the machine does disturbs few of many."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of the two ways, one right after the other."""

    parallel: float
    sequential: float


class Calibration:
    """One run over all crowds, in rounds: each round visits every crowd that fits, in order of worth.

    Iterating makes a visit per turn, until the seconds are spent or there is nothing more to do. A visit measures one
    pair, or some if they are short. The budget is looked at between visits, and the first is always made.

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
        return [_cell(point, pairs) for point, pairs in sorted(self._pairs.items()) if pairs]

    def _measure_all(self) -> Iterator[None]:
        for _ in range(ROUNDS):
            measured = False
            for point in self._points:
                if self._pairs and self.spent >= self._seconds:
                    return
                if self._visit(point):
                    measured = True
                    yield
            if not measured:
                return

    def _visit(self, point: Point) -> bool:
        """Measure a pair or some; False if the crowd doesn't fit now."""
        with self._crowds.crowd(point) as crowd:
            if crowd is None:
                return False
            # Doesn't count: a pass of a running server finds in the caches what the one before left.
            self._time([crowd.parallel])
            pairs, stop = self._pairs.setdefault(point, []), self._clock() + VISIT_S
            for _ in range(MOST_PAIRS):
                pairs.append(self._pair(crowd, parallel_first=len(pairs) % 2 == 0))
                if self._clock() >= stop:
                    break
        return True

    def _pair(self, crowd: Crowd, *, parallel_first: bool) -> Pair:
        if parallel_first:
            parallel = self._time([crowd.parallel])
            return Pair(parallel, self._time(crowd.sequential))
        sequential = self._time(crowd.sequential)
        return Pair(self._time([crowd.parallel]), sequential)

    def _time(self, passes: list[StepPlan]) -> float:
        started = self._clock()
        for plan in passes:
            self._runner.run(plan)
        return self._clock() - started


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

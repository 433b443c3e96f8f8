"""How many times as long the sequential loop takes, between and beyond the crowds that were calibrated."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.baseline.grid import Point

MOVE = 0.1
"""Share of its (logarithmic) difference from the table by which a shadow pass moves a cell."""
MOST_MOVE = 2.0
"""A shadow pass counts as at most so many times more or less than the table: a hiccup of the machine is no news."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is known of a crowd.

    Attributes:
        parallel_seconds: of a pass with all R loops of all sequences.
        ratio: R passes of one loop each, divided by that.
    """

    parallel_seconds: float
    ratio: float


class RatioTable:
    """Interpolates in the logarithms of both axes; beyond what is known the nearest edge holds.

    Not every point need be known: between two contexts each is interpolated, and clamped, by its own known numbers of
    sequences.
    """

    def __init__(self, num_loops: int, points: Iterable[Point]) -> None:
        """An empty table.

        Args:
            num_loops: R.
            points: where cells may be.
        """
        self.num_loops = num_loops
        self.points = sorted(points)
        self.cells: dict[Point, Cell] = {}
        self._ratios = _Surface({})
        self._seconds = _Surface({})

    def put(self, cells: dict[Point, Cell]) -> None:
        """Enter cells, in place of what was known of the same points.

        A ratio above R is the machine's noise: no loop's own pass takes longer than the pass that has its rows, too.
        """
        self.cells |= {p: replace(cell, ratio=min(cell.ratio, self.num_loops)) for p, cell in cells.items()}
        self._ratios = _Surface({point: math.log(cell.ratio) for point, cell in self.cells.items()})
        self._seconds = _Surface(
            {point: math.log(cell.parallel_seconds) for point, cell in self.cells.items()}
        )

    def ratio(self, crowds: Sequence[int], context: float) -> float | None:
        """Times that a decode pass would take if its loops ran one after another; None if nothing is known.

        A pass of one loop alone takes 1/R of the sequential time of its crowd, and what further loops add to it in one
        pass grows with their rows. So of ratio r, one loop's pass is r/R of the pass with all loops; both ends, no
        loop more and all R of them, are exact.

        Args:
            crowds: sequences that take part in the first loop's pass, in the second's, …; descending, not empty.
            context: mean positions per sequence.
        """
        first = crowds[0]
        if len(crowds) == 1:
            return 1.0
        if not self.cells:
            return None
        if crowds[-1] == first and len(crowds) == self.num_loops:
            return math.exp(self._ratios.at(first, context))
        whole, sequential = self._seconds.at(first, context), 0.0
        for sequences in crowds:
            smaller = math.exp(self._seconds.at(sequences, context) - whole)
            sequential += smaller * self._share_of_one_loop(sequences, context)
        further = (sum(crowds) - first) / ((self.num_loops - 1) * first)
        one_loop = self._share_of_one_loop(first, context)
        return sequential / (one_loop + (1 - one_loop) * further)

    def observe(self, crowds: Sequence[int], context: float, parallel: float, sequential: float) -> None:
        """Move the nearest cell towards what a shadow pass found; the first one makes it.

        Args:
            parallel: seconds of the pass. sequential: of the same rows, one loop after another.
        """
        if len(crowds) == 1:
            return
        expected, found = self.ratio(crowds, context), sequential / parallel
        point = self._nearest(crowds[0], context)
        if expected is None:
            if crowds[-1] == crowds[0] and len(crowds) == self.num_loops:
                self.put({point: Cell(parallel, found)})
            return
        known = self.cells.get(point)
        if known is None:
            log_seconds, log_ratio = (
                s.at(point.sequences, point.context) for s in (self._seconds, self._ratios)
            )
            known = Cell(math.exp(log_seconds), math.exp(log_ratio))
        surprise = min(max(found / expected, 1 / MOST_MOVE), MOST_MOVE)
        self.put({point: replace(known, ratio=known.ratio * surprise**MOVE)})

    def _share_of_one_loop(self, sequences: int, context: float) -> float:
        return math.exp(self._ratios.at(sequences, context)) / self.num_loops

    def _nearest(self, sequences: int, context: float) -> Point:
        def distance(point: Point) -> float:
            return abs(math.log(point.sequences / sequences)) + abs(math.log(point.context / context))

        return min(self.points, key=distance)


@dataclass(frozen=True, slots=True)
class _Line:
    """Piecewise linear through at least one knot, ascending, and constant beyond the ends."""

    knots: list[float]
    values: list[float]

    def at(self, x: float) -> float:
        index = bisect_right(self.knots, x)
        if index == 0:
            return self.values[0]
        if index == len(self.knots):
            return self.values[-1]
        low, high = self.knots[index - 1], self.knots[index]
        share = (x - low) / (high - low)
        return self.values[index - 1] * (1 - share) + self.values[index] * share


class _Surface:
    """One line over log(sequences) per context, and between two of them linear in log(context)."""

    def __init__(self, values: dict[Point, float]) -> None:
        columns: dict[int, list[Point]] = {}
        for point in sorted(values):
            columns.setdefault(point.context, []).append(point)
        self._contexts = sorted(columns)
        self._knots = [math.log(context) for context in self._contexts]
        self._lines = [
            _Line([math.log(p.sequences) for p in columns[c]], [values[p] for p in columns[c]])
            for c in self._contexts
        ]

    def at(self, sequences: int, context: float) -> float:
        """The value there; there must be at least one."""
        x, y = math.log(sequences), math.log(context)
        index = bisect_right(self._knots, y)
        if index == 0:
            return self._lines[0].at(x)
        if index == len(self._knots):
            return self._lines[-1].at(x)
        low, high = self._knots[index - 1], self._knots[index]
        share = (y - low) / (high - low)
        return self._lines[index - 1].at(x) * (1 - share) + self._lines[index].at(x) * share

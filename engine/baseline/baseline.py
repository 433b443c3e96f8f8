"""What an engine core has of all this: passes run through it, calibrations in turns, totals out of it."""

import logging

from engine.baseline.calibration import Calibration
from engine.baseline.decode_watch import DecodeWatch
from engine.baseline.grid import Point, points_by_worth
from engine.baseline.pass_clock import Clock, pass_clock
from engine.baseline.ratio_table import Cell, RatioTable
from engine.baseline.synthetic import SyntheticCrowds
from engine.isolated_pass import Pass
from engine.isolation import is_fatal
from engine.loading import LoadedModel
from engine.messages import Calibrated, CalibratedCell, DecodeTimes
from engine.options import EngineOptions
from engine.runner import ModelRunner
from engine.tap import LoopTap
from scheduler.step_plan import StepPlan

logger = logging.getLogger(__name__)

MOST_BYTES_WRITTEN = 1 << 30
"""On a CPU, where memory is taken when it is first written to; a GPU's is taken at the start."""
SHARE_WRITTEN = 4
"""Nor is more than one part in so many of the pool written to, except for the smallest crowd."""
SECONDS_ON_REQUEST = 5.0
"""For a calibration that is asked for where none is done at the start."""


class Baseline:
    """The sequential loop of one engine, measured and estimated."""

    def __init__(self, model: LoadedModel, options: EngineOptions, clock: Clock | None = None) -> None:
        """Nothing is measured before `calibrate_at_start` or `begin_calibration`.

        Args:
            clock: tells the time at which the device has done all that it was given.
        """
        runner, scheduler = model.runner, model.scheduler
        self._runner = runner
        self._clock = clock or pass_clock(runner.staging.device)
        self._seconds = options.calibration_time
        self._points = points_by_worth(scheduler.limits.max_num_seqs, model.max_model_len)
        self._crowds = SyntheticCrowds(runner, scheduler, 0)
        self._crowds.most_written = max(
            self._crowds.blocks_for(self._points[0]),
            _most_blocks(runner, scheduler.blocks.num_blocks, options),
        )
        self._cells: dict[Point, CalibratedCell] = {}
        self._table = RatioTable(scheduler.layout.num_loops, self._points)
        self._learn(options.calibrated)
        self._has_two_ways = scheduler.layout.decodes_in_one_pass
        self._watch = DecodeWatch(runner, options.execution, self._table, self._clock, options.shadow_steps)
        self._calibration: Calibration | None = None
        self._unsent: Calibrated | None = None

    @property
    def times(self) -> DecodeTimes:
        """Totals of the decode passes so far."""
        return self._watch.times

    @property
    def calibrating(self) -> bool:
        """Whether `calibrate` has something to do or to say."""
        return self._calibration is not None or self._unsent is not None

    def run(self, plan: StepPlan, tap: LoopTap | None = None) -> Pass:
        """Compute a non-empty plan, and count it if it is a decode pass; see `run_pass`."""
        return self._watch.run(plan, tap)

    def calibrate_at_start(self) -> None:
        """Spend the seconds of the options, if there is anything to find out; the next `calibrate` tells the result.

        Raises:
            Exception: what makes an engine stop; see `calibrate`.
        """
        if self._seconds == 0 or self._cells or not self._has_two_ways:
            return
        self.begin_calibration()
        while self._unsent is None:
            self._unsent = self.calibrate()

    def begin_calibration(self) -> None:
        """Begin one, unless one is going on."""
        if self._calibration is not None:
            return
        self._calibration = Calibration(
            self._runner,
            self._crowds,
            self._points if self._has_two_ways else [],
            self._seconds or SECONDS_ON_REQUEST,
            self._clock,
        )

    def calibrate(self) -> Calibrated | None:
        """Measure one pair more; returns the result when that was the last.

        Raises:
            Exception: fatal, or of a model split over ranks, which would be out of step.
        """
        if self._unsent is not None:
            unsent, self._unsent = self._unsent, None
            return unsent
        calibration = self._calibration
        if calibration is None:
            return None
        try:
            next(calibration)
            return None
        except StopIteration:
            pass
        except BaseException as error:
            if is_fatal(error) or not self._runner.followers.is_empty:
                raise
            logger.warning("the calibration failed and ends with what it has found", exc_info=error)
        self._calibration = None
        return self._end(calibration)

    def _end(self, calibration: Calibration) -> Calibrated:
        found = calibration.cells()
        self._learn(found)
        if found:
            ratios = [cell.ratio for cell in found]
            logger.info(
                "calibration: %d crowds in %.1f s; one loop after another takes %.2f to %.2f times as long",
                len(found),
                calibration.spent,
                min(ratios),
                max(ratios),
            )
        cells = [self._cells[key] for key in sorted(self._cells)]
        return Calibrated(cells=cells, measured=len(found), seconds=calibration.spent)

    def _learn(self, cells: list[CalibratedCell]) -> None:
        """Enter cells, in place of what was known of the same points."""
        points = {Point(cell.sequences, cell.context): cell for cell in cells}
        self._cells |= points
        self._table.put({p: Cell(cell.parallel_seconds, cell.ratio) for p, cell in points.items()})


def _most_blocks(runner: ModelRunner, num_blocks: int, options: EngineOptions) -> int:
    """Blocks that calibrations may write to, for good."""
    if runner.staging.device.type != "cpu":
        return num_blocks
    parts = [part for cache in runner.state.caches for part in (cache.keys, cache.values)]
    block_bytes = sum(part[0].nbytes for part in parts) * options.tensor_parallel_size
    return min(num_blocks // SHARE_WRITTEN, MOST_BYTES_WRITTEN // block_bytes)

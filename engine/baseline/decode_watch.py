"""Times the passes in service and says what the decode passes among them would have taken in the other execution."""

import logging
from dataclasses import dataclass

from engine.baseline.pass_clock import Clock
from engine.baseline.ratio_table import RatioTable
from engine.baseline.synthetic import passes_by_loop
from engine.isolated_pass import Pass, run_pass
from engine.isolation import is_fatal
from engine.messages import DecodeTimes
from engine.options import Execution
from engine.runner import ModelRunner
from engine.tap import LoopTap
from scheduler.sequence import Sequence
from scheduler.step_plan import StepPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecodePass:
    """A pass with at most one row per loop and sequence, for sequences that ran before.

    Attributes:
        crowds: if loops ran one after another: sequences in the first loop's pass, in the second's, …; descending.
        context: mean positions per sequence.
    """

    crowds: list[int]
    context: float


def decode_pass(plan: StepPlan, execution: Execution) -> DecodePass | None:
    """What kind of decode pass a plan is; None if it isn't one.

    Of a sequential engine's pass, which has one loop of each sequence, `crowds` is what its sequences would have in the
    parallel pass that it is a part of.
    """
    if plan.admitted or plan.restores or not plan.segments:
        return None
    crowds, positions, loop = [0], 0, 0
    previous: Sequence | None = None
    for segment in plan.segments:
        if segment.stop - segment.start != 1:
            return None
        if segment.sequence is previous:
            loop += 1
            if loop == len(crowds):
                crowds.append(0)
        else:
            previous, loop = segment.sequence, 0
            positions += segment.stop
        crowds[loop] += 1
    context = positions / crowds[0]
    return DecodePass(crowds if execution == "parallel" else _crowds_of_parallel(plan), context)


def _crowds_of_parallel(plan: StepPlan) -> list[int]:
    """With an offset of 0 a sequence has one loop per pass in either execution."""
    loops = [s.sequence.layout.num_loops if s.sequence.layout.offset else 1 for s in plan.segments]
    return [sum(count > loop for count in loops) for loop in range(max(loops))]


class DecodeWatch:
    """Runs plans, as `run_pass` does, and counts.

    **Shadow passes.** Every `shadow_steps`-th parallel decode pass is first run loop by loop. The real pass then finds
    what it would have found without: of what a decode pass reads (cached positions before the newest, carry slots
    of the step before), the shadow writes nothing, since output slots are never input slots of the same plan; and
    what the shadow writes (the newest position's cache slots, output slots, snapshots of blocks just completed), the
    real pass writes before anybody reads it. So it doesn't matter either how far a shadow came that failed.

    Attributes:
        times: the counts so far.
    """

    def __init__(
        self, runner: ModelRunner, execution: Execution, table: RatioTable, clock: Clock, shadow_steps: int
    ) -> None:
        """Watch a runner.

        Args:
            shadow_steps: decode passes from one shadow pass to the next; 0 for no shadow passes.
        """
        self.times = DecodeTimes()
        self._runner = runner
        self._execution = execution
        self._table = table
        self._clock = clock
        self._shadow_steps = shadow_steps if execution == "parallel" else 0
        self._since_shadow = 0

    def run(self, plan: StepPlan, tap: LoopTap | None = None) -> Pass:
        """Compute a non-empty plan; see `run_pass`."""
        decode = decode_pass(plan, self._execution)
        if decode is None or (
            tap is not None and self._runner.graphs is not None
        ):  # a tapped pass has no graph
            return run_pass(self._runner, plan, tap)
        shadow = self._shadow(plan) if self._is_shadows_turn(plan, decode) else None
        started = self._clock()
        computed = run_pass(self._runner, plan, tap)
        seconds = self._clock() - started
        if not computed.failures:  # or it ran in parts, and more than once
            if shadow is not None:
                self._table.observe(decode.crowds, decode.context, seconds, shadow)
            self._count(decode, seconds, shadow)
        return computed

    def _is_shadows_turn(self, plan: StepPlan, decode: DecodePass) -> bool:
        if not self._shadow_steps or len(decode.crowds) == 1:
            return False
        self._since_shadow += 1
        return self._since_shadow >= self._shadow_steps and not plan.preempted

    def _shadow(self, plan: StepPlan) -> float | None:
        """Seconds of the plan loop by loop; None if that failed, which then costs nobody anything.

        Raises:
            Exception: fatal, or of a model split over ranks, which would be out of step.
        """
        self._since_shadow = 0
        passes = passes_by_loop(plan)
        started = self._clock()
        try:
            for each in passes:
                self._runner.run(each)
            return self._clock() - started
        except BaseException as error:
            if is_fatal(error) or not self._runner.followers.is_empty:
                raise
            logger.warning("a shadow pass failed; the pass itself goes on", exc_info=error)
            return None

    def _count(self, decode: DecodePass, seconds: float, shadow: float | None) -> None:
        ratio = self._table.ratio(decode.crowds, decode.context)
        if ratio is None:
            return
        times, parallel = self.times, seconds
        if self._execution == "sequential":
            parallel = seconds / ratio
        self.times = DecodeTimes(
            passes=times.passes + 1,
            parallel_seconds=times.parallel_seconds + parallel,
            sequential_seconds=times.sequential_seconds + parallel * ratio,
            shadow_passes=times.shadow_passes + (shadow is not None),
            shadow_parallel_seconds=times.shadow_parallel_seconds + (0.0 if shadow is None else seconds),
            shadow_sequential_seconds=times.shadow_sequential_seconds + (shadow or 0.0),
        )

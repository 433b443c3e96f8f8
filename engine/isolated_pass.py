"""A pass of which only the culprits fail, and the question whether the engine itself is the culprit."""

import logging
from dataclasses import dataclass

import torch

from engine.isolation import Failure, bisect, is_fatal
from engine.row_batch import LogitRow
from engine.runner import ModelRunner, StepLogits
from engine.sampler import Draw, SamplingState, sample_step
from engine.sampling_params import SamplingParams
from engine.tap import LoopTap
from scheduler.scheduler import Scheduler
from scheduler.sequence import Sequence
from scheduler.step_plan import RowSegment, StepPlan

logger = logging.getLogger(__name__)

PROBE_TOKEN = 0  # every vocabulary has it


@dataclass(frozen=True, slots=True)
class Pass:
    """Logits of all sequences of a plan but those in `failures`."""

    result: StepLogits
    failures: list[Failure]


def run_pass(runner: ModelRunner, plan: StepPlan, tap: LoopTap | None = None) -> Pass:
    """Compute a non-empty plan; if that raises, find out for which sequences, and compute the others'.

    Only the whole plan is run with the tap. If that raises, it is run again as if there were none, so that looking at a
    pass can't be what a request fails of; the tap then has no `states`.

    Of a model that is split over ranks nothing is tried again: the others may have begun, or finished, a pass that this
    rank has not, and would meet the next one out of step.
    """
    if not runner.followers.is_empty:
        return Pass(runner.run(plan), [])
    if tap is not None and (result := _run_tapped(runner, plan, tap)) is not None:
        return Pass(result, [])
    whole = plan.sequences

    def run(sequences: list[Sequence]) -> StepLogits:
        return runner.run(plan if len(sequences) == len(whole) else plan.part(sequences))

    done, failed = bisect(whole, run)
    failures = [Failure(sequence, "forward", error) for sequence, error in failed]
    return Pass(_joined([result for _, result in done]), failures)


def _run_tapped(runner: ModelRunner, plan: StepPlan, tap: LoopTap) -> StepLogits | None:
    """What a pass gave; None if it raised."""
    try:
        return runner.run(plan, tap)
    except BaseException as error:
        if is_fatal(error):
            raise
        logger.warning("a pass failed while it was looked at; it is tried without", exc_info=error)
        tap.states = None
        return None


def _joined(results: list[StepLogits]) -> StepLogits:
    if len(results) == 1:
        return results[0]
    rows: list[LogitRow] = [row for result in results for row in result.rows]
    logits = torch.cat([result.logits for result in results]) if results else torch.empty(0, 1)
    return StepLogits(rows, logits)


def engine_works(scheduler: Scheduler, runner: ModelRunner) -> bool:
    """Compute and sample one row that no client had a part in; False if even that fails.

    It asks for a block as a sequence does, and gives it back unwritten as far as the prefix cache knows. If none is
    left, others run, and their passes answer the question.
    """
    sequence = Sequence("probe", [PROBE_TOKEN], 1, scheduler.layout)
    if scheduler.cache.begin(sequence, scheduler.limits.max_rows, 0) is None:
        return True
    try:
        inputs, outputs = scheduler.cache.take_slots(sequence, 0, 0, 1)
        runner.run(StepPlan([RowSegment(sequence, 0, 0, 1, inputs, outputs)]))
        state = SamplingState(SamplingParams(max_tokens=1, seed=0))
        sample_step(torch.zeros(1, 1, device=runner.staging.device), [Draw(0, state)], [])
    except BaseException as error:
        if is_fatal(error):
            raise
        return False
    finally:
        scheduler.cache.release(sequence)
    return True

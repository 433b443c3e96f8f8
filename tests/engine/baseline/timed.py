"""Cores whose passes take the time that a test says, so that every number can be predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.baseline.baseline import Baseline
from engine.core import EngineCore
from engine.messages import CalibratedCell
from engine.options import EngineOptions
from engine.runner import StepLogits
from scheduler.step_plan import StepPlan
from tests.engine.harness import Checkpoint

Cost = Callable[[StepPlan], float]


def rows_cost(plan: StepPlan) -> float:
    """A constant and something per row, as long as weights are what is read."""
    return 0.010 + 0.001 * plan.num_rows


@dataclass
class TimedRunner:
    """Stands in for a runner's `run`: computes, and lets the time pass that the cost says."""

    run: Callable[[StepPlan], StepLogits]
    cost: Cost = rows_cost
    now: float = 0.0
    plans: list[StepPlan] = field(default_factory=list)

    def __call__(self, plan: StepPlan) -> StepLogits:
        self.plans.append(plan)
        self.now += self.cost(plan)
        return self.run(plan)

    def clock(self) -> float:
        return self.now


def timed_core(
    model: Checkpoint,
    *,
    calibration_time: float = 0.0,
    shadow_steps: int = 0,
    calibrated: Sequence[CalibratedCell] = (),
    cost: Cost = rows_cost,
    **options: Any,
) -> tuple[EngineCore, TimedRunner]:
    """A core with a baseline that was calibrated at its start if `calibration_time` says so."""
    core = model.core(**options)
    runner = core.model.runner
    timed = TimedRunner(runner.run, cost)
    runner.run = timed  # type: ignore[method-assign]
    core.baseline = Baseline(
        core.model,
        EngineOptions(
            model_dir="",
            execution=core.model.ready.execution,  # type: ignore[arg-type]
            calibration_time=calibration_time,
            shadow_steps=shadow_steps,
            calibrated=list(calibrated),
        ),
        timed.clock,
    )
    core.baseline.calibrate_at_start()
    return core, timed

"""Decode steps of the whole engine: R = 1, and R = 2 and 3 in parallel and one loop after the other.

All variants hold the same weights and decode the same prompts; sections of a few steps are timed by turns, so that
clocks and temperature hit all alike. A step is `EngineCore.step`: scheduling, one copy to the device, the pass,
sampling and the tokens' way back.
"""

import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from engine.core import EngineCore
from engine.messages import Request
from engine.options import EngineOptions, Execution
from engine.sampling_params import SamplingParams

PREFILL_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model."""

    num_loops: int
    execution: Execution

    @property
    def name(self) -> str:
        return "R = 1" if self.num_loops == 1 else f"R = {self.num_loops}, {self.execution}"


ONE_LOOP = Variant(1, "parallel")
VARIANTS = (ONE_LOOP, Variant(2, "parallel"), Variant(2, "sequential"), Variant(3, "parallel"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        steps: tokens per section.
        rounds: sections per variant.
    """

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    steps: int
    rounds: int


@dataclass(frozen=True, slots=True)
class StepTime:
    """Milliseconds per token of every sequence: median, least and most of the sections; and ÷ R = 1, by round."""

    variant: Variant
    batch: int
    context: int
    milliseconds: tuple[float, float, float]
    against_one_loop: tuple[float, float, float]


def load_cores(model_dir: Path, plan: Plan, options: dict[str, object]) -> dict[Variant, EngineCore]:
    """One engine per variant, all on one device."""
    most = max(plan.batches)
    return {
        variant: EngineCore.load(
            EngineOptions(
                model_dir=str(model_dir),
                model_overrides={"plt_num_loops": variant.num_loops},
                execution=variant.execution,
                max_model_len=max(_length(plan, batch, c) for batch in plan.batches for c in plan.contexts),
                max_num_seqs=most,
                max_rows_per_step=max(PREFILL_ROWS, 3 * most),
                prefix_caching=False,
                calibration_time=0,
                loop_metrics_sample=0.0,
                **options,  # type: ignore[arg-type]
            ),
            show_progress=True,
        )
        for variant in VARIANTS
    }


def measure_steps(cores: dict[Variant, EngineCore], plan: Plan) -> list[StepTime]:
    """Every batch and context that the caches hold."""
    results: list[StepTime] = []
    for batch in plan.batches:
        for context in plan.contexts:
            if all(_holds(core, batch, _length(plan, batch, context)) for core in cores.values()):
                results += _measure(cores, plan, batch, context)
    return results


def _length(plan: Plan, batch: int, context: int) -> int:
    """Most tokens of a sequence: those measured, and those it decodes while others' prompts are computed."""
    return context + plan.steps * (plan.rounds + 2) + batch * (context // PREFILL_ROWS + 8)


def _holds(core: EngineCore, batch: int, length: int) -> bool:
    scheduler = core.scheduler
    needed = scheduler.layout.blocks_for(length, scheduler.limits.max_rows)
    return batch * needed <= scheduler.blocks.num_blocks


def _measure(cores: dict[Variant, EngineCore], plan: Plan, batch: int, context: int) -> list[StepTime]:
    for core in cores.values():
        _start(core, batch, context, _length(plan, batch, context) - context)
        _section(core, plan.steps)  # warm-up
    seconds: dict[Variant, list[float]] = {variant: [] for variant in cores}
    for _ in range(plan.rounds):
        for variant, core in cores.items():
            seconds[variant].append(_section(core, plan.steps))
    for core in cores.values():
        for name in list(core.active):
            core.abort(name)
    baseline = seconds[ONE_LOOP]
    return [
        StepTime(
            variant,
            batch,
            context,
            _spread([1000 * s / plan.steps for s in sections]),
            _spread([s / one for s, one in zip(sections, baseline, strict=True)]),
        )
        for variant, sections in seconds.items()
    ]


def _start(core: EngineCore, batch: int, context: int, max_tokens: int) -> None:
    """Bring `batch` sequences to decoding."""
    draw = random.Random(0)
    params = SamplingParams(max_tokens=max_tokens, seed=0, temperature=0.0)
    for number in range(batch):
        prompt = [draw.randrange(3, core.ready().vocab_size) for _ in range(context)]
        core.add(Request(request_id=str(number), prompt_token_ids=prompt, params=params))
    started: set[str] = set()
    while len(started) < batch:
        started |= {output.request_id for output in core.step()}


def _section(core: EngineCore, steps: int) -> float:
    """Seconds for `steps` more tokens of every sequence."""
    wanted = steps * len(core.active)
    begun = time.perf_counter()
    while wanted > 0:
        outputs = core.step()
        if any(output.finish_reason for output in outputs):
            raise RuntimeError("a sequence ended while it was measured")
        wanted -= sum(len(output.token_ids) for output in outputs)
    return time.perf_counter() - begun


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)

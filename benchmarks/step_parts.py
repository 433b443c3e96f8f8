"""Where a decode step's time goes: products with weights, each row operation, scheduling and sampling.

    python -m benchmarks.step_parts MODEL

What is outside the products is what other work than reading weights costs; it should be a small part of a step.
"""

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.machine import describe
from engine.core import EngineCore
from engine.messages import Request
from engine.model import LoopedModel
from engine.options import EngineOptions
from engine.sampling_params import SamplingParams
from engine.weights import ModelWeights

CONTEXT, WARM_UP, STEPS = 128, 8, 48
PRODUCTS = "products"
KERNELS = (
    *("attend", "rotate_and_write", "gates", "silu_mul", "rms_norm", "add_rms_norm"),
    *("loop_input", "keep_hidden"),
)
OTHER = "scheduling, batch, sampling"


class PartTimes:
    """Seconds spent in named parts of steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time counted."""

        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            self.seconds[part] += time.perf_counter() - started
            return result

        return call


def watch(model: LoopedModel, times: PartTimes) -> None:
    """Count the time of a model's products and kernels from now on."""
    model.weights = _watched(model.weights, times)
    for name in KERNELS:
        setattr(model.kernels, name, times.timed(name, getattr(model.kernels, name)))


def _watched(weights: ModelWeights, times: PartTimes) -> ModelWeights:
    layers = [
        replace(
            layer,
            qkv=times.timed(PRODUCTS, layer.qkv),
            output=times.timed(PRODUCTS, layer.output),
            gate_up=times.timed(PRODUCTS, layer.gate_up),
            down=times.timed(PRODUCTS, layer.down),
        )
        for layer in weights.layers
    ]
    return replace(weights, layers=layers, head=times.timed(PRODUCTS, weights.head))


def measure(core: EngineCore, times: PartTimes, batch: int) -> dict[str, float]:
    """Milliseconds per step and part, of a batch that decodes."""
    draw = random.Random(batch)
    for number in range(batch):
        prompt = [draw.randrange(core.model.config.vocab_size) for _ in range(CONTEXT)]
        params = SamplingParams(max_tokens=WARM_UP + STEPS + CONTEXT, seed=0, temperature=0.0)
        core.add(Request(request_id=str(number), prompt_token_ids=prompt, params=params))
    while core.stats().waiting or any(not s.is_decoding for s in core.scheduler.running):
        core.step()
    for _ in range(WARM_UP):
        core.step()
    times.seconds.clear()
    started = time.perf_counter()
    for _ in range(STEPS):
        core.step()
    total = time.perf_counter() - started
    parts = {**times.seconds, OTHER: total - sum(times.seconds.values())}
    for number in range(batch):
        core.abort(str(number))
    return {part: seconds / STEPS * 1000 for part, seconds in parts.items()}


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Where a decode step's time goes.")
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--loops", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    print(f"Means of {STEPS} decode steps after prompts of {CONTEXT}, ms. {describe()}.\n")
    parts = [PRODUCTS, *KERNELS, OTHER]
    print(f"| loops | batch | step | outside the products | {' | '.join(parts)} |")
    print(f"|{'---|' * (len(parts) + 4)}")
    for loops in arguments.loops:
        options = EngineOptions(
            model_dir=arguments.model,
            model_overrides={"plt_num_loops": loops},
            max_model_len=2 * CONTEXT + WARM_UP + STEPS + 1,
            max_num_seqs=max(arguments.batch),
            prefix_caching=False,
            calibration_time=0,
            loop_metrics_sample=0.0,
        )
        core, times = EngineCore.load(options, show_progress=False), PartTimes()
        watch(core.model.runner.model, times)
        for batch in arguments.batch:
            spent = measure(core, times, batch)
            step = sum(spent.values())
            outside = (step - spent[PRODUCTS]) / step
            cells = " | ".join(f"{spent.get(part, 0):.2f}" for part in parts)
            print(f"| {loops} | {batch} | {step:.2f} | {outside:.1%} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

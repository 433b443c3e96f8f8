"""The results page of one GPU."""

from dataclasses import dataclass, replace

from planning.devices import Device
from planning.loopcoder import SHAPE
from planning.roofline import decode_seconds
from planning.shape import Shape
from tools.gpu_check.launches import LaunchTime
from tools.gpu_check.steps import ONE_LOOP, StepTime


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it ran.

    Attributes:
        bandwidth: bytes per second of a large device-to-device copy, read and written bytes counted.
        flops: bfloat16 FLOPs per second of a large product.
        versions: torch, Triton, driver.
    """

    name: str
    bandwidth: float
    flops: float
    memory: int
    versions: str


def page(
    machine: Machine,
    num_layers: int,
    kernel_tests: str,
    steps: list[StepTime],
    launches: list[LaunchTime],
) -> str:
    """Markdown."""
    gpu = Device(machine.name, machine.bandwidth, machine.flops, machine.memory)
    shape = replace(SHAPE, layers=num_layers)
    return "\n".join(
        [
            f"# GPU check: {machine.name}\n",
            f"Written by `make gpu-check`. {machine.versions}. Measured here: {machine.bandwidth / 1e9:,.0f} GB/s "
            f"(copy), {machine.flops / 1e12:,.0f} TFLOPS (bfloat16 product); the model column is the roofline of "
            "`planning/roofline.py` with these two.\n",
            f"Kernel tests, native: {kernel_tests}\n",
            f"## Decode steps\n\nLoopCoder-V2's shape with random weights and {num_layers} of {SHAPE.layers} "
            "layers, greedy, engine included, HTTP not. Sections of all variants by turns; median (min–max).\n",
            _table(
                ["batch", "context", "variant", "ms per token", "÷ R = 1, by round", "model, ms", "÷ model"],
                [_step_line(step, gpu, shape) for step in steps],
            ),
            "## Attention launches\n\nOne layer. `default` is `kernels/gpu/launch.py`. A better alternative belongs "
            "there if it is better for every workload of its kind.\n",
            _table(
                [
                    "workload",
                    "default, ms",
                    "best, ms",
                    "default ÷ best",
                    "keys",
                    "warps",
                    "stages",
                    "not launched",
                ],
                [_launch_line(launch) for launch in launches],
            ),
        ]
    )


def _step_line(step: StepTime, gpu: Device, shape: Shape) -> list[str]:
    variant = step.variant
    model = 1000 * decode_seconds(shape, gpu, variant.num_loops, variant.execution, step.batch, step.context)
    return [
        *(str(step.batch), f"{step.context:,}", variant.name, _spread(step.milliseconds)),
        "1" if variant == ONE_LOOP else _spread(step.against_one_loop),
        *(f"{model:.2f}", f"{step.milliseconds[0] / model:.2f}"),
    ]


def _launch_line(launch: LaunchTime) -> list[str]:
    best = launch.alternative
    return [
        *(launch.workload.name, f"{launch.default:.3f}", f"{launch.best:.3f}"),
        *(f"{launch.default / launch.best:.2f}", str(best.keys), str(best.num_warps), str(best.num_stages)),
        str(launch.failed),
    ]


def _spread(values: tuple[float, float, float]) -> str:
    median, low, high = values
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

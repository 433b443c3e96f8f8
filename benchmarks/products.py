"""A layer stack's matrix products, ours in every stored format against oneDNN's packed float32 ones, by turns.

python -m benchmarks.products [--rows 1 2 4 8 16 32]
"""

import argparse
import time
from collections.abc import Callable

import numba
import torch

from benchmarks.machine import describe
from benchmarks.spread import Spread
from kernels.panel_linear import PanelLinear
from kernels.weight_formats import WeightFormat

SHAPES = ((1536, 1024), (1024, 1024), (5632, 1024), (1024, 2816))
"""(outputs, inputs) of one layer: q, k, v; o; gate, up; down."""
LAYERS = 14
FORMATS: tuple[WeightFormat, ...] = ("float32", "bfloat16", "int8", "int4")
ROUNDS = 9

Product = Callable[[torch.Tensor], torch.Tensor]


def onednn(weight: torch.Tensor) -> Product:
    """The product that torch offers for weights packed once."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def stacks() -> dict[str, list[Product]]:
    """Every implementation over the same random weights."""
    weights = [torch.randn(shape) for _ in range(LAYERS) for shape in SHAPES]
    made: dict[str, list[Product]] = {
        name: [PanelLinear(weight, None, name) for weight in weights] for name in FORMATS
    }
    return {"oneDNN float32": [onednn(weight) for weight in weights], **made}


def milliseconds(stack: list[Product], inputs: dict[int, torch.Tensor]) -> float:
    """Time one pass through all layers."""
    started = time.perf_counter()
    for index, product in enumerate(stack):
        product(inputs[SHAPES[index % len(SHAPES)][1]])
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Matrix products of a decode step: ours against oneDNN's.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    arguments = parser.parse_args()
    numba.set_num_threads(torch.get_num_threads())
    by_name = stacks()
    print(f"{LAYERS} layers, ms per pass, median (min–max) of {ROUNDS}. {describe()}.\n")
    print(f"| rows | {' | '.join(by_name)} |\n|{'---|' * (len(by_name) + 1)}")
    for rows in arguments.rows:
        inputs = {depth: torch.randn(rows, depth) for _, depth in SHAPES}
        times: dict[str, list[float]] = {name: [] for name in by_name}
        for _ in range(ROUNDS + 1):
            for name, stack in by_name.items():
                times[name].append(milliseconds(stack, inputs))
        print(f"| {rows} | {' | '.join(str(Spread.of(values[1:])) for values in times.values())} |")


if __name__ == "__main__":
    main()

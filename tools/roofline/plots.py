"""The page's plots, as SVG; the same bytes every time."""

from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.options import Execution
from planning.loopcoder import SHAPE
from planning.roofline import decode_seconds, ridge_rows
from tools.roofline.page import GPUS

BATCHES = [2**n for n in range(9)]
CONTEXTS = (1024, 8192, 32768, 131072)
MODES: tuple[tuple[int, Execution, str], ...] = (
    (1, "parallel", "R = 1"),
    (2, "parallel", "R = 2, parallel"),
    (2, "sequential", "R = 2, sequential"),
    (3, "parallel", "R = 3, parallel"),
    (3, "sequential", "R = 3, sequential"),
)


def write_plots(directory: Path) -> None:
    """step_time.svg, second_loop.svg and speed_up.svg."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "loopserve"
    _step_time(directory / "step_time.svg")
    _ratios(directory / "second_loop.svg", "R = 2 parallel ÷ R = 1", (2, "parallel"), (1, "parallel"))
    _ratios(directory / "speed_up.svg", "R = 2 sequential ÷ parallel", (2, "sequential"), (2, "parallel"))


def _step_time(path: Path) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for gpu, axis in zip(GPUS, axes, strict=True):
        for num_loops, execution, label in MODES:
            times = [1e3 * decode_seconds(SHAPE, gpu, num_loops, execution, b, 8192) for b in BATCHES]
            style = "--" if execution == "sequential" else "-"
            axis.plot(BATCHES, times, style, marker=".", color=f"C{num_loops - 1}", label=label)
        axis.set(title=f"{gpu.name}, 8,192 tokens of context", xlabel="sequences in the batch")
        _batch_axis(axis)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("ms per token (model)")
    axes[0].legend()
    _save(figure, path)


def _ratios(path: Path, title: str, above: tuple[int, Execution], below: tuple[int, Execution]) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for gpu, axis in zip(GPUS, axes, strict=True):
        for context in CONTEXTS:
            ratios = [
                decode_seconds(SHAPE, gpu, *above, batch, context)
                / decode_seconds(SHAPE, gpu, *below, batch, context)
                for batch in BATCHES
            ]
            axis.plot(BATCHES, ratios, marker=".", label=f"{context // 1024}k tokens of context")
        axis.axvline(ridge_rows(gpu, SHAPE) / 2, color="grey", linestyle=":", linewidth=1)
        axis.set(title=gpu.name, xlabel="sequences in the batch")
        _batch_axis(axis)
    axes[0].set_ylabel(title + " (model)")
    axes[0].set_ylim(0.95, 2.05)
    axes[0].legend()
    _save(figure, path)


def _batch_axis(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(BATCHES, [str(batch) for batch in BATCHES])
    axis.grid(alpha=0.3)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

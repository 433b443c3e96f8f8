"""Plots of a report as SVG to stand in an HTML page, in the page's own text colour."""

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from diagnostics.report import MetricValues, Report
from diagnostics.tables import loop_names

INK = "#010203"
"""Drawn by matplotlib, then replaced by the page's text colour."""
GAIN, COST, OTHER = "#2a9d6f", "#d1603d", "#4a86c5"
"""Seen well on light and on dark."""
GATE_COLOURS = mpl.colormaps["viridis"].resampled(20)
MOST_SHAPES = 4096
MOST_TICKS = 16
_STYLE: dict[Any, Any] = {  # matplotlib types its keys as literals
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def gain_and_cost(report: Report) -> str:
    """What each loop takes off the loss, beside what its offset costs."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "gain"}):
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        _bars(left, report, report.metric("gain"), GAIN, "gain, nats per token")
        left.axhline(0, color=INK, linewidth=0.8)
        cost = "offset_cost_normed" if report.model.normalize_per_loop else "offset_cost_raw"
        _bars(right, report, report.metric(cost), COST, "offset cost")
        return _svg(figure)


def course(report: Report, keys: list[str], salt: str) -> str:
    """Quantities over the loops, one small plot each."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(7.6, 2.3), layout="constrained")
        panels = figure.subplots(1, len(keys), squeeze=False)[0]
        for axes, key in zip(panels, keys, strict=True):
            _line(axes, report, report.metric(key))
        return _svg(figure)


def gate_maps(report: Report) -> str | None:
    """Mean gate by layer and head of every loop that has gates; None of a model without."""
    maps = [(loop, gates) for loop, gates in enumerate(report.gates, start=1) if gates is not None]
    if not maps:
        return None
    names = loop_names(report)
    layers, heads = len(maps[0][1]), len(maps[0][1][0])
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "gates"}):
        width = 1.1 + len(maps) * min(3.4, 1.0 + 0.22 * heads)
        figure = Figure(figsize=(width, 1.1 + min(5.0, 0.24 * layers)), layout="constrained")
        panels = figure.subplots(1, len(maps), squeeze=False)[0]
        for axes, (loop, gates) in zip(panels, maps, strict=True):
            # Shapes, but for a map of so many that a picture is smaller.
            image = axes.pcolormesh(
                gates, vmin=0, vmax=1, cmap=GATE_COLOURS, rasterized=layers * heads > MOST_SHAPES
            )
            axes.invert_yaxis()
            axes.set_title(f"loop {names[loop - 1]}")
            _number(axes.xaxis, "head", heads)
            _number(axes.yaxis, "layer", layers)
            if layers * heads <= 160:
                _write_values(axes, gates)
        bar = figure.colorbar(image, ax=list(panels))
        if bar.solids is not None:
            bar.solids.set_rasterized(False)
        bar.set_label("0: window, 1: context")
        return _svg(figure)


def _bars(axes: Axes, report: Report, metric: MetricValues, colour: str, title: str) -> None:
    """One bar per loop with its interval; the loop that is no part of the model is pale."""
    names, own = loop_names(report), report.model.loops
    for loop, value in enumerate(metric.values, start=1):
        if value is None:
            continue
        errors = None
        if value.low is not None and value.high is not None:
            errors = [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]
        alpha = 1.0 if loop <= own else 0.35
        axes.bar(loop, value.value, 0.6, color=colour, alpha=alpha, yerr=errors, ecolor=INK, capsize=3)
    axes.set_xticks(range(1, len(names) + 1), names)
    axes.set_xlim(0.4, len(names) + 0.6)
    axes.set_xlabel("loop")
    axes.set_title(title)


def _line(axes: Axes, report: Report, metric: MetricValues) -> None:
    points = [(loop, value) for loop, value in enumerate(metric.values, start=1) if value is not None]
    loops = [loop for loop, _ in points]
    axes.plot(loops, [value.value for _, value in points], color=OTHER, marker="o", markersize=4)
    banded = [(loop, v.low, v.high) for loop, v in points if v.low is not None and v.high is not None]
    if banded:
        where, low, high = zip(*banded, strict=True)
        axes.vlines(where, low, high, color=OTHER, alpha=0.5, linewidth=3)
    axes.set_xticks(range(1, report.num_loops + 1), [name.split()[0] for name in loop_names(report)])
    axes.set_xlim(0.6, report.num_loops + 0.4)
    if report.has_extra_loop:
        axes.axvspan(report.model.loops + 0.5, report.num_loops + 0.5, color=INK, alpha=0.06, linewidth=0)
    axes.set_title(metric.label + (f", {metric.unit}" if metric.unit else ""))


def _number(axis: Axis, label: str, count: int) -> None:
    """Tick the middles of cells, not more of them than there is room for."""
    step = 1 + count // MOST_TICKS
    axis.set_ticks(
        [cell + 0.5 for cell in range(0, count, step)], [str(cell) for cell in range(0, count, step)]
    )
    axis.set_label_text(label)


def _write_values(axes: Axes, gates: list[list[float]]) -> None:
    for layer, row in enumerate(gates):
        for head, gate in enumerate(row):
            colour = "#111111" if gate > 0.6 else "#ffffff"
            axes.text(
                head + 0.5, layer + 0.5, f"{gate:.2f}", ha="center", va="center", fontsize=7, color=colour
            )


def _svg(figure: Figure) -> str:
    """The picture from its `<svg` on, without a width of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    return svg.replace(INK, "currentColor")

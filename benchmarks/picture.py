"""A report as a picture: time per token of each mode, by batch and context."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.decode import Report

COLOURS = ("#1f6f8b", "#c8553d", "#9aa5b1")


def draw(report: Report, path: Path) -> None:
    """Write the picture; the format is that of the file's ending."""
    groups = list(dict.fromkeys((row.context, row.batch) for row in report.rows))
    modes = list(dict.fromkeys(row.mode for row in report.rows))
    figure = Figure(figsize=(1.6 + 1.5 * len(groups), 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(modes)
    for index, (mode, colour) in enumerate(zip(modes, COLOURS, strict=False)):
        rows = [row for row in report.rows if row.mode == mode]
        places = [number + (index - (len(modes) - 1) / 2) * width for number in range(len(groups))]
        heights = [row.ms_per_token.median for row in rows]
        below = [row.ms_per_token.median - row.ms_per_token.low for row in rows]
        above = [row.ms_per_token.high - row.ms_per_token.median for row in rows]
        bars = axes.bar(places, heights, width, yerr=[below, above], color=colour, label=mode.name, capsize=2)
        axes.bar_label(bars, [f"{row.ms_per_token.median:.1f}" for row in rows], fontsize=7, padding=2)
    axes.set_xticks(range(len(groups)), [f"batch {batch}\ncontext {context}" for context, batch in groups])
    axes.set_ylabel("ms per token, median (min–max)")
    axes.set_title(f"{report.model}: {report.num_parameters / 1e6:,.0f} M parameters", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)

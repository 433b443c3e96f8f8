"""A report in a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diagnostics.estimates import LEVEL_TEXT, Estimate
from diagnostics.metrics import METRICS, Group
from diagnostics.report import Report
from diagnostics.serving_cost import PROMPT_TOKENS

GROUPS: dict[Group, str] = {
    "prediction": "What each loop would predict",
    "states": "What each loop does to the states",
    "attention": "How each loop attends",
}


def show(report: Report, console: Console) -> None:
    """Print everything but the excerpts."""
    console.print(Text(summary(report)))
    for group, title in GROUPS.items():
        console.print(_metrics_table(report, group, title))
    console.print(_serving_table(report))
    if report.shares:
        console.print(_shares_table(report))
    console.print(Text("\n".join([*report.verdict.sentences, *report.notes])))


def summary(report: Report) -> str:
    """Model and corpus in a paragraph."""
    model, corpus = report.model, report.corpus
    skipped = "".join(f", {count} skipped ({reason})" for reason, count in corpus.skipped.items())
    cut = f", {corpus.cut} of them cut at {report.settings['max_tokens']} tokens" if corpus.cut else ""
    some = "" if corpus.is_complete else "more than "
    return (
        f"{model.name}: {model.parameters:,} parameters, {model.loops} loop{'s' * (model.loops > 1)} of "
        f"{model.layers} layers. {corpus.used:,} of {some}{corpus.found:,} documents measured{cut}{skipped}; "
        f"{corpus.tokens:,} tokens."
    )


def loop_names(report: Report) -> list[str]:
    """Of the columns of a report; what is no part of the model says so."""
    names = [str(loop) for loop in range(1, report.num_loops + 1)]
    if report.has_extra_loop:
        names[-1] += " (extra)"
    return names


def number(estimate: Estimate | None, digits: int) -> str:
    """A mean, – where there is none."""
    return "–" if estimate is None else f"{estimate.value:,.{digits}f}"


def interval_text(estimate: Estimate | None, digits: int) -> str:
    """Its interval, empty where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:,.{digits}f} … {estimate.high:,.{digits}f}"


def serving_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """The table of what serving costs: its head and its rows."""
    header = [
        "loops",
        "rows per token",
        "passes per token",
        f"rows of a prompt of {PROMPT_TOKENS:,}",
        "cache per token",
        "per sequence",
    ]
    rows = [
        [
            str(cost.loops),
            str(cost.decode_rows),
            str(cost.decode_passes),
            f"{cost.prompt_rows:,}",
            f"{cost.kv_bytes_per_token:,} B",
            f"{cost.bytes_per_sequence:,} B",
        ]
        for cost in report.serving
    ]
    return header, rows


def shares_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """The table of shares: its head and its rows."""
    labels = {metric.key: metric.label for metric in report.metrics}
    header = ["share of", *(f"loop {loop}" for loop in range(2, report.model.loops + 1))]
    return header, [
        [labels[key], *(f"{share:.0%}" for share in shares)] for key, shares in report.shares.items()
    ]


def _metrics_table(report: Report, group: Group, title: str) -> Table:
    table = Table(title=f"{title} (mean, {LEVEL_TEXT} interval)", title_justify="left")
    table.add_column("")
    for name in loop_names(report):
        table.add_column(f"loop {name}", justify="right")
    for metric in METRICS:
        values = report.metric(metric.key).values
        if metric.group == group and any(values):
            unit = f", {metric.unit}" if metric.unit else ""
            cells = [
                f"{number(value, metric.digits)}\n{interval_text(value, metric.digits)}".strip()
                for value in values
            ]
            table.add_row(metric.label + unit, *cells)
    return table


def _serving_table(report: Report) -> Table:
    header, rows = serving_rows(report)
    return _table("What serving so many loops costs (from the model's shape)", header, rows)


def _shares_table(report: Report) -> Table:
    header, rows = shares_rows(report)
    return _table("Shares of the loops after the first", header, rows)


def _table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="right")
    for cells in rows:
        table.add_row(*cells)
    return table

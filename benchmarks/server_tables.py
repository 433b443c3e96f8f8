"""A report of `benchmarks.servers` as a table; ratios are to the first server, by round."""

from benchmarks.cells import Cells
from benchmarks.servers import ServerReport, ServerRow
from benchmarks.spread import Spread

HEADER = [
    "server",
    "streams",
    "prompt",
    "answer",
    "rounds",
    "to first token, ms",
    "÷ first",
    "ms per token",
    "÷ first",
    "between events p50",
    "p99",
    "tokens/s, all streams",
    "÷ first",
]
NOTHING = "–"


def server_cells(report: ServerReport) -> Cells:
    """Latency and throughput by load and server."""
    first = {row.load: row for row in reversed(report.rows)}
    return Cells("Median (min–max) of rounds", HEADER, [_cells(row, first[row.load]) for row in report.rows])


def _cells(row: ServerRow, first: ServerRow) -> list[str]:
    return [
        row.target,
        str(row.load.streams),
        str(row.prompt_tokens),
        str(row.completion_tokens),
        str(len(row.tokens_per_second)),
        *_pair(row.first_token_seconds, first.first_token_seconds, 1000),
        *_pair(row.per_token_seconds, first.per_token_seconds, 1000),
        _gap(row.gap_p50),
        _gap(row.gap_p99),
        *_pair(row.tokens_per_second, first.tokens_per_second, 1),
    ]


def _pair(own: list[float], first: list[float], unit: float) -> tuple[str, str]:
    if not own:
        return NOTHING, NOTHING
    ratio = Spread.of_ratios(own, first) if len(own) == len(first) else NOTHING
    return str(Spread.of(own).times(unit)), str(ratio)


def _gap(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds * 1000:.1f}"

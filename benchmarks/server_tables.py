"""A report of `benchmarks.servers` as a table."""

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


def server_cells(report: ServerReport) -> Cells:
    """Latency and throughput by load and server."""
    return Cells("Median (min–max) of rounds", HEADER, [_cells(row) for row in report.rows])


def _cells(row: ServerRow) -> list[str]:
    return [
        row.target,
        str(row.load.streams),
        str(row.prompt_tokens),
        str(row.completion_tokens),
        str(row.rounds),
        str(row.ms_to_first_token),
        str(row.first_token_ratio),
        _or_dash(row.ms_per_token),
        _or_dash(row.per_token_ratio),
        _gap(row.gap_p50),
        _gap(row.gap_p99),
        str(row.tokens_per_second),
        str(row.throughput_ratio),
    ]


def _or_dash(spread: Spread | None) -> str:
    return "–" if spread is None else str(spread)


def _gap(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"

"""A report of `benchmarks.decode` as tables."""

from rich.console import Console

from benchmarks.cells import Cells
from benchmarks.decode import Report, Row
from scheduler.loop_layout import LoopCache


def decode_cells(report: Report) -> Cells:
    """Time per token by context, batch and mode."""
    header = [
        "context",
        "batch",
        "mode",
        "passes",
        "ms per token",
        "÷ first",
        "to first token, ms",
        "÷ first",
    ]
    with_bandwidth = any(row.bandwidth_share is not None for row in report.rows)
    rows = [_decode_row(row) for row in report.rows]
    if with_bandwidth:
        header.append("of read bandwidth")
        for cells, row in zip(rows, report.rows, strict=True):
            cells.append(str(row.bandwidth_share or "–"))
    return Cells("Median (min–max)", header, rows)


def memory_cells(report: Report) -> Cells:
    """Cache bytes."""
    has_windows = report.cache is LoopCache.WINDOW
    name = "shared by the loops (loopserve)" if has_windows else "every loop keeps its context (loopserve)"
    rows = [[name, f"{report.kv_bytes_per_token:,}", f"{report.kv_bytes_per_sequence:,}"]]
    if has_windows:
        per_token = f"{report.kv_bytes_per_token_sequential:,}"
        rows.append(["every loop keeps its context (computed)", per_token, "–"])
    rows.append(["one loop", f"{report.kv_bytes_per_token_one_loop:,}", "–"])
    return Cells("Key-value cache", ["cache", "bytes per token of context", "bytes per sequence"], rows)


def summary(report: Report) -> str:
    """What was run, in one paragraph."""
    options = report.options
    text = (
        f"Model {report.model}: {report.num_parameters:,} parameters, {report.num_loops} loops; dtype {options.dtype}, "
        f"quantization {options.quantization}, cache {options.kv_cache_dtype}. "
        f"{report.plan.tokens} tokens per section, "
        f"{min(row.rounds for row in report.rows)} to {max(row.rounds for row in report.rows)} sections of each mode "
        "by turns; ratios are paired by round. "
    )
    if report.num_loops > 1 and all(row.mode.execution == "parallel" for row in report.rows):
        text += "A loop needs the one before at the same token, so both executions are the same: a pass per loop. "
    if report.weight_bytes_per_pass is not None:
        text += f"A pass reads {report.weight_bytes_per_pass:,} bytes of weights. "
    if report.read_gigabytes_per_second is not None:
        text += f"Reading memory: {report.read_gigabytes_per_second} GB/s. "
    return f"{text}Machine: {report.machine}."


def show(report: Report, console: Console) -> None:
    """Print everything."""
    console.print(decode_cells(report).rich())
    console.print(memory_cells(report).rich())
    console.print(summary(report), highlight=False)


def markdown(report: Report) -> str:
    """Everything, for a document."""
    return "\n\n".join([summary(report), decode_cells(report).markdown(), memory_cells(report).markdown()])


def _decode_row(row: Row) -> list[str]:
    return [
        str(row.context),
        str(row.batch),
        row.mode.name,
        f"{row.passes_per_token:g}",
        str(row.ms_per_token),
        str(row.against_parallel),
        str(row.ms_to_first_tokens),
        str(row.first_tokens_against_parallel),
    ]

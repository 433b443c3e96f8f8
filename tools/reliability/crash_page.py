"""docs/results/crash.md, and which of its promises are broken."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tools.reliability import crash as crashes
from tools.reliability.crash import API, EXIT_GAVE_UP, SIGNALS, Crash
from tools.reliability.results import Kept, command_line, milliseconds, table, verdict
from tools.reliability.statistics import percentile

MAX_ERROR_AFTER_KILL = 1.0
MAX_ERROR_AFTER_TIMEOUT = 2.0
"""Seconds from the heartbeat's timeout: it is looked at once a second, and then the engine's stacks are dumped."""


def problems(records: list[Crash], heartbeat_timeout: float) -> list[str]:
    """Broken promises."""
    limits = dict(
        zip(SIGNALS, (MAX_ERROR_AFTER_KILL, heartbeat_timeout + MAX_ERROR_AFTER_TIMEOUT), strict=True)
    )
    found = []
    for number, crash in enumerate(records):
        where = f"crash {number} ({crash.kind})"
        found += [f"{where}: {silent}" for silent in crash.silent]
        found += [f"{where}: {crash.bare} refusals without Retry-After"] * bool(crash.bare)
        if crash.ready is None and crash.exit is None:
            found.append(f"{where}: neither ready again nor ended")
        if crash.ready is not None and not crash.right_after:
            found.append(f"{where}: no right answer after the restart")
        if crash.kind == API:
            continue
        if crash.exit is not None and crash.exit_code != EXIT_GAVE_UP:
            found.append(f"{where}: exit code {crash.exit_code}")
        if crash.leaks:
            found.append(f"{where}: {crash.leaks}")
        if max(crash.errors, default=0.0) > limits[crash.kind]:
            found.append(f"{where}: a typed error took {max(crash.errors):.2f} s")
    return found


def page(kept: Kept[Crash], path: Path) -> None:
    """Write the page."""
    records, timeout = kept.records, float(kept.options["heartbeat_timeout"])
    head = ("", *SIGNALS, API)
    columns = [[crash for crash in records if crash.kind == kind] for kind in head[1:]]

    def row(name: str, cell: Callable[[list[Crash]], object]) -> tuple[object, ...]:
        return (name, *(cell(column) if column else "" for column in columns))

    rows = [
        row("crashes", len),
        row("requests under way", lambda c: sum(x.under_way for x in c)),
        row("of them answered in time", lambda c: sum(x.finished for x in c)),
        row("of them told by a typed error", lambda c: sum(len(x.errors) for x in c)),
        row("until that error: p50, p99, most", lambda c: _three([s for x in c for s in x.errors])),
        row("503 with Retry-After meanwhile", lambda c: sum(x.refused for x in c)),
        row("**requests that ended otherwise**", lambda c: sum(len(x.silent) for x in c)),
        row("until ready again: p50, p99, most", lambda c: _three([x.ready for x in c if x.ready])),
        row("restarts", lambda c: sum(x.ready is not None for x in c)),
        row("right answers right after them", lambda c: sum(x.right_after for x in c)),
        row("exit codes of those that used up the budget", _codes),
        row("until no process was left: p50, p99, most", lambda c: _three([x.exit for x in c if x.exit])),
        row("blocks, streams, open files or temporary files left", lambda c: sum(bool(x.leaks) for x in c)),
    ]
    path.write_text(f"""# Crashes

    make crash
    {command_line()}

{crashes.__doc__.strip() if crashes.__doc__ else ""}

{table(head, rows)}

When the API process is killed, its clients' connections end without a word and its temporary directory stays behind:
nobody is left to do better. Requests under way are those sent before the crash and not yet answered. A stopped engine
is found out after `--heartbeat-timeout` ({timeout:g} s here).

Broken promises (every request ends right, refused or with `engine_dead`, within {MAX_ERROR_AFTER_KILL:g} s after
kill -9 and {MAX_ERROR_AFTER_TIMEOUT:g} s after the heartbeat's timeout; ready again and right, or exit code
{EXIT_GAVE_UP}; nothing left behind):

{verdict(problems(records, timeout))}

{kept.provenance()}
""")


def _codes(column: list[Crash]) -> str:
    counts = Counter(crash.exit_code for crash in column if crash.exit is not None)
    return ", ".join(f"{code}: {count}" for code, count in counts.items())


def _three(seconds: list[float]) -> str:
    shares = (0.5, 0.99, 1.0)
    return ", ".join(milliseconds(percentile(seconds, share)) for share in shares) if seconds else ""

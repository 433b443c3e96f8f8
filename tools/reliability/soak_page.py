"""docs/results/soak.md, and which of its promises are broken."""

from collections import Counter
from pathlib import Path

from tools.reliability import soak
from tools.reliability.results import Kept, command_line, milliseconds, table, verdict
from tools.reliability.server_process import API, ENGINE
from tools.reliability.soak import BLOCK_STATES, Sample
from tools.reliability.statistics import Interval, percentile, slope

WARM_UP = 0.25
"""Share of the time that slopes leave out: caches and pools fill first."""
MAX_SLOPE = 1.0
"""MiB per hour and process."""
LEAST_SAMPLES = 20
"""For a slope to mean anything."""


def rss_slope(samples: list[Sample], role: str) -> Interval | None:
    """MiB per hour after the warm-up; None of too few samples."""
    late = [s for s in _warm(samples) if role in s.processes]
    if len(late) < LEAST_SAMPLES:
        return None
    return slope([s.seconds / 3600 for s in late], [s.processes[role].rss for s in late])


def problems(samples: list[Sample]) -> list[str]:
    """Broken promises."""
    last = samples[-1]
    found = [f"at {s.seconds:.0f} s: {fault}" for s in samples for fault in s.faults]
    if last.leftovers is None:
        found.append("the run did not come to its end")
    elif last.leftovers:
        found.append(f"held at the end: {last.leftovers}")
    if last.restarts:
        found.append(f"{last.restarts} restarts of the engine")
    for role in (API, ENGINE):
        if role not in last.processes:
            found.append(f"there is no {role} in the end")
            continue
        growth = rss_slope(samples, role)
        if growth is not None and growth.low > MAX_SLOPE:
            found.append(f"{role}: memory grows by {growth.format()} MiB per hour")
        for what in ("files", "threads"):
            before, now = (getattr(sample.processes[role], what) for sample in (samples[0], last))
            if now > before + 2:
                found.append(f"{role}: {before} {what} before the load, {now} after it")
    return found


def page(kept: Kept[Sample], path: Path) -> None:
    """Write the page."""
    samples = kept.records
    requests: Counter[str] = Counter()
    for sample in samples:
        requests.update(sample.requests)
    faults = [fault for sample in samples for fault in sample.faults]
    hours = samples[-1].seconds / 3600
    busy = sum(_cpu_seconds(samples[-1]).values()) - sum(_cpu_seconds(samples[0]).values())
    counts = [(kind, f"{count:,}") for kind, count in sorted(requests.items())]
    path.write_text(f"""# Soak

    make soak
    {command_line()}

{soak.__doc__.strip() if soak.__doc__ else ""}

{hours:.2f} hours, {requests.total():,} requests, {len(faults)} with a wrong answer or status,
{samples[-1].restarts} restarts of the engine; {busy / (3600 * hours):.2f} cores busy on average.

{table(("requests", ""), counts)}

Memory in MiB; the slope leaves the first {WARM_UP:.0%} of the time out, its 95 % interval allows for autocorrelation.

{_processes(samples)}

{_latencies(samples)}

Blocks of the cache in the end: {", ".join(f"{samples[-1].blocks[state]} {state}" for state in BLOCK_STATES)}.

Broken promises (every answer right, nothing held in the end, no restart, memory's slope not above {MAX_SLOPE:g} MiB
per hour, no more open files and threads after than before):

{verdict(problems(samples))}

{kept.provenance()}
""")


def _processes(samples: list[Sample]) -> str:
    first, warm, last = samples[0], _warm(samples)[0], samples[-1]
    rows = []
    for role in last.processes:
        growth = rss_slope(samples, role)
        memory = [f"{s.processes[role].rss:.1f}" if role in s.processes else "" for s in (first, warm, last)]
        rows.append(
            (
                role,
                *memory,
                f"{growth.format()} MiB/h" if growth else "too short",
                *(_from_to(samples, role, what) for what in ("files", "threads")),
            )
        )
    head = ("", "memory before", "after the warm-up", "in the end", "slope", "open files", "threads")
    return table(head, rows)


def _from_to(samples: list[Sample], role: str, what: str) -> str:
    seen = [getattr(sample.processes[role], what) for sample in samples if role in sample.processes]
    return f"{seen[0]} before, at most {max(seen)}, {seen[-1]} in the end"


def _latencies(samples: list[Sample]) -> str:
    """By thirds of the time, so that a drift shows."""
    rows = []
    end = samples[-1].seconds
    for number, name in enumerate(("first third", "second third", "last third")):
        part = [s for s in samples if number * end / 3 < s.seconds <= (number + 1) * end / 3]
        firsts = [seconds for s in part for seconds in s.first_tokens]
        whole = [seconds for s in part for seconds in s.whole]
        cells = [milliseconds(percentile(of, share)) for of in (firsts, whole) for share in (0.5, 0.99)]
        rows.append((name, *cells))
    return table(("", "first token p50", "p99", "whole answer p50", "p99"), rows)


def _warm(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.seconds >= WARM_UP * samples[-1].seconds]


def _cpu_seconds(sample: Sample) -> dict[str, float]:
    return {role: seen.cpu_seconds for role, seen in sample.processes.items()}

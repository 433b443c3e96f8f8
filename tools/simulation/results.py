"""What many seeds gave: kept in a file, so that a long run can be stopped and gone on with, and put on a page."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.simulation.episode import Totals


@dataclass(slots=True)
class Chunk:
    """One seed's run.

    Attributes:
        cpu_seconds: of the process that ran it.
        failure: what went wrong, "" if nothing did.
    """

    seed: int
    cpu_seconds: float
    totals: Totals
    failure: str = ""


@dataclass(slots=True)
class Results:
    """All chunks so far, one line of JSON each in `path`."""

    path: Path
    chunks: list[Chunk] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What an earlier run left, or nothing."""
        results = cls(path)
        if path.exists():
            for line in path.read_text().splitlines():
                values = json.loads(line)
                results.chunks.append(Chunk(**{**values, "totals": Totals(**values["totals"])}))
        return results

    def add(self, chunk: Chunk) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(chunk)) + "\n")
        self.chunks.append(chunk)

    @property
    def totals(self) -> Totals:
        totals = Totals()
        for chunk in self.chunks:
            totals.add(chunk.totals)
        return totals


def page(results: Results, machine: str, commit: str) -> str:
    """`docs/results/simulation.md`."""
    totals, chunks = results.totals, results.chunks
    seconds = sum(chunk.cpu_seconds for chunk in chunks)
    seeds = sorted(chunk.seed for chunk in chunks)
    failures = [chunk for chunk in chunks if chunk.failure]
    counts = [
        ("steps of the engine", totals.steps),
        ("rows computed", totals.rows),
        ("episodes (setting × engine × load), each drained and checked idle", totals.episodes),
        ("requests", totals.requests),
        ("answers finished", totals.finished),
        ("tokens compared", totals.tokens),
        ("aborts", totals.aborts),
        ("preemptions", totals.preemptions),
        ("evictions", totals.evictions),
        ("failures of the model, each followed by a restart", totals.restarts),
        ("exceptions of one request, each ending that request alone", totals.exceptions),
        ("exceptions that did not come again, ending nothing", totals.hiccups),
        ("prompt tokens found in the prefix cache", totals.cached_tokens),
        ("sequences begun by restoring", totals.restored),
        ("sequences begun by recomputing a found prompt's tail", totals.recomputed),
        ("**seeds with a wrong token, a leaked block, a broken invariant or starvation**", len(failures)),
    ]
    rows = "\n".join(f"| {name} | {count:,} |" for name, count in counts)
    found = "".join(f"\n* seed {chunk.seed}: `{chunk.failure.splitlines()[0]}`" for chunk in failures)
    return f"""# Simulation

    make simulate
    .venv/bin/python -m tools.simulation --seed N [--steps M | --episode E]      # replay

The real engine loop, core, scheduler, cache books, batch builder and sampler over a model of hashes
(`tools/simulation/arithmetic.py`). That model reads its paged cache as the real one does, layer by layer, so a wrong
slot, window, carry or cached block gives another token than the request alone must get. Freed blocks and slots are
poisoned. After every step all invariants are checked (`scheduler/invariants.py`); every 16th, all that the prefix
cache holds of running sequences is compared with the truth; no hit crosses tenants, and each eviction takes from the
tenant that has the most. Each episode draws 1 to 4 loops, offset, window, layers, block size, pool, limits, execution
mode, tenants and load. `tests/tools/simulation/mutations.py` has the bugs that it is known to catch.

| | |
|---|---|
{rows}
{found}
Starvation: whoever is first in rank must finish within (max_num_seqs + 2) × loops × max_model_len turns and is never
preempted; the longest took {totals.longest_wait:.0%} of that.

Seeds {seeds[0]} to {seeds[-1]} ({len(seeds)}), commit {commit}, {totals.steps / seconds:,.0f} steps per CPU second
({seconds:,.0f} in all), one thread each, {machine}.
"""

"""`docs/results/checkpoint-fuzz.md`."""

from collections import Counter

from tools.fuzz_checkpoint.case import Result
from tools.fuzz_checkpoint.many import Failure


def page(seeds: range, results: list[Result], failures: list[Failure], machine: str, commit: str) -> str:
    """The page of a run over `seeds`."""
    files = sorted({result.file for result in results})
    counts = Counter((result.file, result.outcome) for result in results)
    rows = "\n".join(
        f"| `{name}` | "
        + " | ".join(f"{counts[name, kind]:,}" for kind in ("refused", "another", "same"))
        + " |"
        for name in files
    )
    errors = Counter(result.error for result in results if result.error)
    classes = ", ".join(f"{count:,} `{name}`" for name, count in errors.most_common())
    slowest = max((result.cpu_seconds for result in results), default=0.0)
    found = "".join(f"\n* seed {failure.seed}: {failure.problem}" for failure in failures)
    return f"""# Damaged model directories

    make fuzz-checkpoint
    .venv/bin/python -m tools.fuzz_checkpoint --seed N      # replay one

Each seed damages one file of a small whole model in one to four places: bytes, values in the JSON, entries of a
safetensors header, its length. The model is then loaded as the server does it, to the last tensor
(`tools/fuzz_checkpoint/case.py`). It must load, with finite values and every tensor that its config asks for, or be
refused by a `ModelError` of one line; with at most 5 s of CPU time and 256 MiB of memory.

| damaged file | refused | loaded as another model | loaded as the same |
|---|---|---|---|
{rows}

{len(results):,} directories were loaded or refused as they must be, **{len(failures)} were not**.
Refused by: {classes or "nothing"}.{found}

Another model: a damaged weight, epsilon or merge is a valid one. The slowest took {slowest:.2f} s.

Seeds {seeds.start} to {seeds.stop - 1}, commit {commit}, {machine}.
"""

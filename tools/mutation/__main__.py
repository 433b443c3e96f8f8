"""Try every mutant of the scheduler.

    python -m tools.mutation --page docs/results/mutation.md       # goes on where it was stopped
    python -m tools.mutation --module scheduler.block_pool --again # tries survivors again, after new tests

Ends with 1 if a survivor is not judged.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import describe
from tools.mutation.mutants import mutants_of
from tools.mutation.results import Results, Tried, load_verdicts, page, verdict_of
from tools.mutation.trial import ROOT, preload, try_mutant

TESTS = Path("tests/scheduler")


def main() -> int:
    arguments = _arguments()
    preload()
    modules = arguments.module or _modules()
    mutants = [mutant for module in modules for mutant in mutants_of(module, _path(module))]
    results, verdicts = Results.load(arguments.kept), load_verdicts()
    deadline = time.monotonic() + arguments.seconds
    for mutant in mutants:
        before = results.tried.get(mutant.key)
        again = arguments.again and before is not None and before.outcome == "survived"
        if (
            before is None or (again and verdict_of(mutant, verdicts) is None)
        ) and time.monotonic() < deadline:
            started = time.monotonic()
            outcome = try_mutant(mutant, tests_for(mutant.module))
            results.add(Tried(mutant.key, str(mutant), outcome, round(time.monotonic() - started, 2)))
            print(f"{outcome:10} {mutant}", flush=True)
    if arguments.page is not None:
        where = f"{datetime.now(UTC).date().isoformat()}, {describe()}."
        arguments.page.write_text(page(mutants, results, verdicts, where), encoding="utf-8")
    survivors = [m for m in mutants if m.key in results.tried and results.tried[m.key].outcome == "survived"]
    unjudged = [mutant for mutant in survivors if verdict_of(mutant, verdicts) is None]
    for mutant in unjudged:
        print(f"not noticed: {mutant}")
    return int(bool(unjudged))


def _modules() -> list[str]:
    files = sorted((ROOT / "scheduler").glob("*.py"))
    return [f"scheduler.{file.stem}" for file in files if file.stem != "__init__"]


def _path(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


def tests_for(module: str) -> list[list[str]]:
    """All of the scheduler's tests, the module's own first; where there are none, those of the scheduler as a whole."""
    files = sorted((ROOT / TESTS).glob("test_*.py"))
    own = ROOT / TESTS / f"test_{module.rpartition('.')[2]}.py"
    first = own if own in files else ROOT / TESTS / "test_scheduler.py"
    return [[str(first)], [str(file) for file in files if file != first]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument(
        "--module", action="append", help="dotted name; repeatable; default: all of the scheduler"
    )
    parser.add_argument("--again", action="store_true", help="try survivors again that are not judged")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so long")
    parser.add_argument("--kept", type=Path, default=Path("build/mutation.jsonl"))
    parser.add_argument("--page", type=Path, help="write the results here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Damage model directories at random and load them.

    python -m tools.fuzz_checkpoint --seed 7                 # one seed; the same again, whenever
    python -m tools.fuzz_checkpoint --cases 10000 --page docs/results/checkpoint-fuzz.md

Ends with 1 if any seed failed; each such seed is printed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe
from tools.fuzz_checkpoint.case import Result, make_bases, run_seed
from tools.fuzz_checkpoint.many import Failure, run_seeds
from tools.fuzz_checkpoint.page import page


def main() -> int:
    arguments = _arguments()
    if not arguments.cases:
        with tempfile.TemporaryDirectory() as directory:
            print(run_seed(arguments.seed, make_bases(Path(directory)), Path(directory)))
        return 0
    seeds = range(arguments.seed, arguments.seed + arguments.cases)
    started = time.monotonic()
    results: list[Result] = []
    failures: list[Failure] = []
    for found in run_seeds(seeds):
        if isinstance(found, Failure):
            print(f"seed {found.seed}: {found.problem}", flush=True)
            failures.append(found)
        else:
            results.append(found)
    print(f"{len(results)} as they must be, {len(failures)} not, in {time.monotonic() - started:.0f} s")
    if arguments.page:
        arguments.page.write_text(page(seeds, results, failures, describe(), _commit()))
    return int(bool(failures))


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz_checkpoint", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the only one, or the first")
    parser.add_argument(
        "--cases", type=int, default=0, help="how many seeds; 0 runs one and shows its traceback"
    )
    parser.add_argument("--page", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

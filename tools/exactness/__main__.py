"""Compare requests in crowds with the same requests alone, bit for bit.

    python -m tools.exactness --seed 0 --cases 350 --crowds 1000 --page docs/results/exactness.md
    python -m tools.exactness --seed 0 --case 12      # one case again

Ends with 1 if a bit differed or a situation never occurred.
"""

import argparse
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numba
import torch

from benchmarks.machine import describe
from tools.exactness.case import run_case
from tools.exactness.one_seed import Answers, meet_crowd
from tools.exactness.results import Run, page
from tools.exactness.situations import Totals
from tools.simulation.failure import SimulationError
from tools.simulation.many import commit

REPORT_EVERY = 25  # cases


def main() -> int:
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    if arguments.case is not None:
        print(run_case(arguments.seed, arguments.case))
        return 0
    run = run_all(arguments.seed, arguments.cases, arguments.crowds)
    if arguments.page is not None:
        arguments.page.write_text(page(run))
    for text in run.failures:
        print(text)
    for name in run.totals.missing:
        print(f"never occurred: {name}")
    print(f"one seed in {run.answers.crowds} crowds: {len(run.answers.distinct)} distinct answers")
    return int(not run.passed)


def run_all(seed: int, cases: int, crowds: int) -> Run:
    """All cases and crowds of a seed; failures are collected."""
    started, totals, answers = time.process_time(), Totals(), Answers()
    failures: list[str] = []
    checked_out = commit()  # while this runs, there may come others
    for number in range(cases):
        try:
            totals.add(run_case(seed, number))
        except SimulationError as error:
            failures.append(str(error))
        if (number + 1) % REPORT_EVERY == 0:
            print(
                f"{number + 1} cases: {totals.compared} requests compared, {len(failures)} failed", flush=True
            )
    for number in range(crowds):
        try:
            meet_crowd(seed, number, answers)
        except SimulationError as error:
            failures.append(str(error))
    seconds = time.process_time() - started
    return Run(seed, totals, answers, failures, seconds, describe(), checked_out, datetime.now(UTC).date())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.exactness", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--case", type=int, help="run this one only")
    parser.add_argument("--crowds", type=int, default=100, help="of the request that always has one seed")
    parser.add_argument("--page", type=Path, help="write the results here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

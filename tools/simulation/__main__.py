"""Run the simulator.

    python -m tools.simulation --seed 7 --steps 200000      # one seed; the same again, whenever
    python -m tools.simulation --seed 7 --episode 12        # one episode of it
    python -m tools.simulation --until 10000000 --jobs 2 --kept build/simulation.jsonl --page docs/results/simulation.md

The last runs seed after seed until so many steps are done in all, goes on where it was stopped, and ends with 1 if
any seed failed.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from tools.simulation.episode import run_episode, run_seed
from tools.simulation.failure import SimulationError
from tools.simulation.many import Effort, run_many
from tools.simulation.results import Results


def main() -> int:
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    if arguments.until:
        effort = Effort(arguments.seed, arguments.until, arguments.jobs, arguments.seconds)
        return int(run_many(Results.load(arguments.kept), effort, arguments.page))
    started = time.process_time()
    try:
        if arguments.episode is None:
            totals = run_seed(arguments.seed, arguments.steps)
        else:
            totals = run_episode(arguments.seed, arguments.episode)
    except SimulationError as error:
        print(error)
        return 1
    seconds = time.process_time() - started
    print(f"{totals}\n{totals.steps / seconds:,.0f} steps per CPU second")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--episode", type=int)
    parser.add_argument("--until", type=int, default=0, help="steps over many seeds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no seed after so long")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=Path("build/simulation.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/simulation.md"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

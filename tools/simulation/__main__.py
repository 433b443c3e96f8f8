"""Run the simulator.

    python -m tools.simulation --seed 7 --steps 200000      # one seed; the same again, whenever
    python -m tools.simulation --seed 7 --episode 12        # one episode of it
    python -m tools.simulation --until 10000000 --jobs 2 --kept build/simulation.jsonl --page docs/results/simulation.md

The last runs seed after seed until so many steps are done in all, goes on where it was stopped, and ends with 1 if
any seed failed.
"""

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.machine import describe
from tools.simulation.episode import Totals, run_episode, run_seed
from tools.simulation.failure import SimulationError
from tools.simulation.results import Chunk, Results, page

CHUNK_STEPS = 100_000


def main() -> int:
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    if arguments.until:
        return _run_many(arguments)
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


def _run_many(arguments: argparse.Namespace) -> int:
    results = Results.load(arguments.kept)
    done = {chunk.seed for chunk in results.chunks}
    seeds = (seed for seed in count(arguments.seed) if seed not in done)
    deadline = time.monotonic() + arguments.seconds
    spawn = get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, mp_context=spawn) as pool:
        for chunk in _chunks(pool, seeds, results, arguments.until, arguments.jobs, deadline):
            results.add(chunk)
            arguments.page.write_text(page(results, describe(), _commit()))
            rate = chunk.totals.steps / chunk.cpu_seconds
            print(
                f"seed {chunk.seed}: {chunk.totals.steps} steps, {rate:,.0f} per second {chunk.failure}",
                flush=True,
            )
    return int(any(chunk.failure for chunk in results.chunks))


def _chunks(
    pool: ProcessPoolExecutor, seeds: Iterator[int], results: Results, until: int, jobs: int, deadline: float
) -> Iterator[Chunk]:
    """Chunks as they end, until there are enough steps or it is too late."""
    running: set[Future[Chunk]] = set()
    while True:
        planned = results.totals.steps + len(running) * CHUNK_STEPS
        while planned < until and len(running) < jobs and time.monotonic() < deadline:
            running.add(pool.submit(run_chunk, next(seeds)))
            planned += CHUNK_STEPS
        if not running:
            return
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            yield future.result()


def run_chunk(seed: int) -> Chunk:
    """One seed, in a process of the pool."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    started, totals, failure = time.process_time(), Totals(), ""

    def keep(so_far: Totals) -> None:
        nonlocal totals
        totals = so_far

    try:
        totals = run_seed(seed, CHUNK_STEPS, keep)
    except SimulationError as error:
        failure = str(error)
    return Chunk(seed, time.process_time() - started, totals, failure)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())

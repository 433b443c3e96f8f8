"""Seed after seed in processes beside each other, until enough steps are done."""

import logging
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.machine import describe
from tools.simulation.episode import Totals, run_seed
from tools.simulation.failure import SimulationError
from tools.simulation.results import Chunk, Results, page


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is run.

    Attributes:
        first_seed: seeds go up from here; those that have been run are left out.
        steps: in all, with what earlier runs did.
        seconds: after so long no seed is begun.
        seed_steps: of one seed; what is lost when a run is stopped.
    """

    first_seed: int
    steps: int
    jobs: int
    seconds: float
    seed_steps: int = 100_000


def run_many(results: Results, effort: Effort, page_path: Path) -> bool:
    """Add to `results` and rewrite the page after each seed.

    Returns:
        Whether any seed has failed, now or earlier.
    """
    with ProcessPoolExecutor(effort.jobs, mp_context=get_context("spawn")) as pool:
        for chunk in _chunks(pool, results, effort):
            results.add(chunk)
            page_path.write_text(page(results, describe(), commit()))
            rate = chunk.totals.steps / chunk.cpu_seconds
            print(
                f"seed {chunk.seed}: {chunk.totals.steps} steps, {rate:,.0f} per second {chunk.failure}",
                flush=True,
            )
    return any(chunk.failure for chunk in results.chunks)


def run_chunk(seed: int, steps: int) -> Chunk:
    """One seed, in a process of the pool."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    started, totals, failure = time.process_time(), Totals(), ""

    def keep(so_far: Totals) -> None:
        nonlocal totals
        totals = so_far

    try:
        totals = run_seed(seed, steps, keep)
    except SimulationError as error:
        failure = str(error)
    return Chunk(seed, time.process_time() - started, totals, failure)


def _chunks(pool: ProcessPoolExecutor, results: Results, effort: Effort) -> Iterator[Chunk]:
    """Chunks as they end, until there are enough steps or it is too late."""
    done = {chunk.seed for chunk in results.chunks}
    seeds = (seed for seed in count(effort.first_seed) if seed not in done)
    deadline = time.monotonic() + effort.seconds
    running: set[Future[Chunk]] = set()
    while True:
        planned = results.totals.steps + len(running) * effort.seed_steps
        while planned < effort.steps and len(running) < effort.jobs and time.monotonic() < deadline:
            running.add(pool.submit(run_chunk, next(seeds), effort.seed_steps))
            planned += effort.seed_steps
        if not running:
            return
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            yield future.result()


def commit() -> str:
    """The commit that is checked out, shortened."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"

"""Seed after seed in a process that may hang or die: a native library is at work in it."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from engine.child_process import limit_memory
from tools.fuzz_checkpoint.case import FuzzError, Result, make_bases, run_seed

SILENCE_S = 60.0
"""After so long without an answer a seed counts as a hang."""
MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed at which something happened that must not.

    Attributes:
        killed: it took its process with it. While a tokenizer is tried that is what `server.model_trial` is for.
    """

    seed: int
    problem: str
    killed: bool = False


def run_seeds(seeds: range) -> Iterator[Result | Failure]:
    """What comes of each seed, in order."""
    context = get_context("spawn")
    left = list(seeds)
    while left:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, left), daemon=True)
        process.start()
        theirs.close()
        try:
            while left:
                problem = "it hangs"
                if ours.poll(SILENCE_S):
                    found = ours.recv()
                    left.pop(0)
                    yield found
                    continue
                break
        except EOFError:
            process.join()
            problem = f"it ended its process with {process.exitcode}"
        finally:
            process.kill()
            process.join()
        if left:
            yield Failure(left.pop(0), problem, killed=True)


def _work(answers: Connection, seeds: list[int]) -> None:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # panics of the tokenizers library tell their stack
    with tempfile.TemporaryDirectory(prefix="loopserve-fuzz-") as directory:
        bases = make_bases(Path(directory))
        limit_memory(MEMORY_BYTES)
        with contextlib.suppress(BrokenPipeError):
            for seed in seeds:
                try:
                    answers.send(run_seed(seed, bases, Path(directory)))
                except FuzzError as error:
                    answers.send(Failure(seed, str(error)))

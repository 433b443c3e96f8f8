"""``python -m tools.compile_kernels``: compile every kernel for every target, write the table, enforce the rules."""

import argparse
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import triton

from kernels.registry import INTERPRETED
from tools.compile_kernels import shapes
from tools.compile_kernels.compiling import Specialization, compile_and_measure, specialize
from tools.compile_kernels.launches import Launch, Use
from tools.compile_kernels.rules import Compiled, broken_rules
from tools.compile_kernels.table import page
from tools.compile_kernels.targets import TARGETS, Target

WORKERS = 2


def compile_all(uses: dict[Launch, set[Use]]) -> list[Compiled]:
    """Every launch on every target; launches that the JIT would compile once are compiled once."""
    jobs: dict[tuple[Specialization, Target], list[Launch]] = {}
    for launch in uses:
        for target in TARGETS:
            jobs.setdefault((specialize(launch, target), target), []).append(launch)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:
        outcomes = list(
            pool.map(compile_and_measure, [same[0] for same in jobs.values()], [target for _, target in jobs])
        )
    return [
        Compiled(same[0], tuple(set().union(*(uses[launch] for launch in same))), target, outcome)
        for ((_, target), same), outcome in zip(jobs.items(), outcomes, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.compile_kernels", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/results/kernels.md"), metavar="FILE")
    options = parser.parse_args()
    if INTERPRETED:
        print("error: TRITON_INTERPRET=1 replaces the compiler by an interpreter; unset it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        compiled = compile_all(shapes.record(shapes.covering_shapes()))
    options.output.write_text(page(compiled, triton.__version__, shapes.COVERING_TEXT))
    broken = [
        f"{row.launch.kernel_name} on {row.target.name}, {dict(row.launch.constants)}: {rule}"
        for row in compiled
        for rule in broken_rules(row)
    ]
    for line in broken:
        print(line, file=sys.stderr)
    print(f"{len(compiled)} kernels compiled, {len(broken)} rules broken, table in {options.output}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

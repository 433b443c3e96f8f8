"""One mutant's trial: the tests, then the simulator, in a process of its own that has it in place of the real module.

The process is forked from one that has imported what takes long (torch, numba, hypothesis) and nothing of ours, so a
trial begins at once.
"""

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
from hypothesis import HealthCheck, Phase, settings

from tools.mutation.mutants import Mutant

Outcome = Literal["tests", "simulation", "time", "survived"]
"""What noticed the mutant; "time" is an endless loop, or the like."""

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = ("torch", "numba", "numpy", "msgspec", "hypothesis.stateful", "llguidance", "tqdm", "psutil")
CPU_SECONDS = 40
"""Of one trial; without a mutant it takes a third of that."""
WALL_SECONDS = 1500.0  # on a machine that is busy with other things
MEMORY_BYTES = 16 << 30  # of address space, of which torch's libraries alone take some
SIMULATED_STEPS = 8_000
SIMULATED_SEED = 0
_CODES: dict[int, Outcome] = {0: "survived", 10: "tests", 11: "simulation"}


def preload() -> None:
    """Import what trials need and no mutant can change."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # or every trial would look through all that for garbage


def try_mutant(mutant: Mutant, tests: Sequence[Sequence[str]]) -> Outcome:
    """Run a trial.

    Args:
        tests: paths for one run of pytest after another, until the first failure.

    Raises:
        RuntimeError: the real module was imported already, and the mutant would not take its place.
    """
    if "scheduler" in sys.modules:
        raise RuntimeError("the scheduler must not have been imported before a trial")
    process = os.fork()
    if process == 0:
        code = 10  # whatever goes wrong was noticed
        try:
            code = _trial(mutant, tests)
        finally:
            os._exit(code)
    deadline = time.monotonic() + WALL_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return "time" if os.WIFSIGNALED(status) else _CODES[os.WEXITSTATUS(status)]
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "time"


def _trial(mutant: Mutant, tests: Sequence[Sequence[str]]) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.dont_write_bytecode = True
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    os.chdir(ROOT)
    sys.meta_path.insert(0, _Replacement(mutant))
    # The same examples each time, and none made smaller: it is enough to know that there is one.
    settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutation")
    for some in tests:
        if pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", *some]) != 0:
            return 10
    return 11 if _simulator_notices() else 0


def _simulator_notices() -> bool:
    episode = importlib.import_module("tools.simulation.episode")  # after the mutant is in its place
    try:
        episode.run_seed(SIMULATED_SEED, SIMULATED_STEPS)
    except BaseException:
        return True
    return False


class _Replacement(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the mutant when its module is imported."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin="mutant")

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._mutant.source, self._mutant.module, "exec"), module.__dict__)

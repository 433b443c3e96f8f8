"""Freed memory goes back once a process is idle, and not while it works."""

import subprocess
import sys

import pytest

from engine.freed_memory import PAUSE_S, IdleTrim

HOLES = """
import psutil
from engine.freed_memory import trim_heap
kept = [bytes(50_000) for _ in range(4000)]
last = kept[-1]
del kept[:-1]
import gc; gc.collect()
pinned = psutil.Process().memory_info().rss
trim_heap()
print((pinned - psutil.Process().memory_info().rss) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_memory_between_living_objects_is_given_back() -> None:
    """Objects of 50 kB lie in the heap, below the last one, which stays: 190 MiB that glibc keeps by itself."""
    run = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 100


def test_a_pause_is_waited_for_and_one_trim_is_enough() -> None:
    now, trims = [0.0], []
    idle = IdleTrim(lambda: trims.append(now[0]), lambda: now[0])
    idle.turn(working=False)
    now[0] = 100.0
    idle.turn(working=False)
    assert trims == []  # nothing was done yet
    idle.turn(working=True)
    now[0] = 100.0 + 0.9 * PAUSE_S
    idle.turn(working=False)
    assert trims == []
    idle.turn(working=True)  # the pause was too short
    now[0] += 0.9 * PAUSE_S
    idle.turn(working=False)
    assert trims == []
    now[0] += 0.2 * PAUSE_S
    idle.turn(working=False)
    now[0] += 100.0
    idle.turn(working=False)
    assert len(trims) == 1

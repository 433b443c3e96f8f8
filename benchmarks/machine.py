"""What a benchmark ran on."""

import os
import platform
import time
from pathlib import Path

import torch

YARDSTICK_BYTES = 1 << 30
"""Read at a time: more than caches hold."""


def describe() -> str:
    """CPU, cores, threads and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    return f"{cpu}, {cores} cores, {threads} threads; torch {torch.__version__}, Python {platform.python_version()}"


class ReadYardstick:
    """How fast the CPU's threads read memory: the ceiling of a decode step that is bound by weights."""

    def __init__(self, num_bytes: int = YARDSTICK_BYTES) -> None:
        self.buffer = torch.ones(num_bytes // 4)

    def gigabytes_per_second(self) -> float:
        """Time one pass over the buffer."""
        started = time.perf_counter()
        self.buffer.sum()
        return self.buffer.nbytes / (time.perf_counter() - started) / 1e9

"""The time at which the device has done all that it was given."""

import time
from collections.abc import Callable

import torch

Clock = Callable[[], float]


def pass_clock(device: torch.device) -> Clock:
    """Seconds of a monotonic clock, read when the device is idle; a GPU works behind the host's back."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now

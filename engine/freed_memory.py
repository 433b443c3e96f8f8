"""Gives freed memory back to the system once a process is idle. Torch-free.

glibc's allocator keeps what is freed below the top of its heaps for later, so a process that was busy once, or was sent
megabytes, stays as large as it was then. Giving it back takes milliseconds and makes the next use slower, which is why
it waits for a pause.
"""

import ctypes
import ctypes.util
import sys
import time
from collections.abc import Callable

PAUSE_S = 1.0


def trim_heap() -> None:
    """Give back all whole pages that are free; does nothing where the C library isn't glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class IdleTrim:
    """Trims the heap once after each spell of work, when it is `PAUSE_S` seconds ago."""

    def __init__(
        self, trim: Callable[[], None] = trim_heap, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._trim = trim
        self._clock = clock
        self._worked_at: float | None = None

    def turn(self, working: bool) -> None:
        """To be called again and again.

        Args:
            working: whether there is work, or was any since the last call.
        """
        if working:
            self._worked_at = self._clock()
        elif self._worked_at is not None and self._clock() - self._worked_at >= PAUSE_S:
            self._trim()
            self._worked_at = None

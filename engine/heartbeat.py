"""A sign of progress in shared memory: readable even when the engine process hangs in native code."""

import mmap
import os
import sys
import time
from pathlib import Path

_SIZE = 16


class Heartbeat:
    """Number of turns and time of the last one, in a small file that two processes map.

    Each value is eight aligned bytes stored at once, so that a reader never sees half of one. The time is
    `time.monotonic`, which counts the same in all processes of a machine; 0 means no beat so far.
    """

    def __init__(self, path: Path) -> None:
        """Map `path`, made if missing.

        Raises:
            OSError: it can't be made. On a full disk that must be known here: writing to a mapped page that has no
                place on the disk ends the process by SIGBUS.
        """
        with path.open("a+b") as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, _SIZE)
            else:
                file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._view = memoryview(self._map)
        self._turns = self._view[:8].cast("Q")
        self._time = self._view[8:].cast("d")

    def beat(self) -> None:
        """Show progress."""
        self._turns[0] += 1
        self._time[0] = time.monotonic()

    @property
    def turns(self) -> int:
        """Beats so far."""
        return self._turns[0]

    def age(self) -> float:
        """Seconds since the last beat, 0 before the first."""
        last = self._time[0]
        return time.monotonic() - last if last else 0.0

    def close(self) -> None:
        """Unmap the file; `beat` and `age` must not be called afterwards."""
        for view in (self._turns, self._time, self._view):
            view.release()
        self._map.close()

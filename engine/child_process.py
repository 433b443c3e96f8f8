"""What processes that we start have in common: they find our modules, leave signals to us, and never outlive us."""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def import_path() -> str:
    """This process's import path: a child finds the same modules in the same order, wherever it was started."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


def leave_signals_to_parent() -> None:
    """Ctrl-C and a service manager signal every process of the group, but draining needs the engine alive."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, also during a long load or step.

    Linux only; elsewhere the child's loop has to notice.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        sys.exit(1)


def limit_memory(num_bytes: int) -> None:
    """Allow this process so much address space beyond what it has now, and no core dump.

    Linux only; elsewhere a time limit has to do.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = Path("/proc/self/statm")
    if pages.exists():
        taken = int(pages.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = taken + num_bytes if most == resource.RLIM_INFINITY else min(most, taken + num_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

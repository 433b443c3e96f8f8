"""How much memory this process may still take. Torch-free."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes: what the machine has left, its control groups (containers, services) allow and its own limit allows."""
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(), *_left_of_limit()]))


def gibibytes(num_bytes: float) -> str:
    """For messages, such as "1.5 GiB"."""
    return f"{num_bytes / (1 << 30):.1f} GiB"


def _left_of_limit() -> Iterator[int]:
    """`ulimit -v`."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - psutil.Process().memory_info().vms


def _left_in_groups(membership: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> Iterator[int]:
    """For each control group above this process that has a limit; Linux only.

    Within a container the path that the kernel tells may be the host's, and only the root is there to be read.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = (
                root / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            yield from _left_in_group(group, *names)
            group = group.parent


def _left_in_group(group: Path, limit_name: str, usage_name: str, cache_name: str) -> Iterator[int]:
    """The limit less what is used; files' pages that the kernel would give back first don't count."""
    try:
        limit = (group / limit_name).read_text().strip()
        if limit == "max":
            return
        usage = int((group / usage_name).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield int(limit) - usage + int(statistics.get(cache_name, 0))
    except (OSError, ValueError):
        return

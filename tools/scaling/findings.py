"""What a run found, as a page."""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise: whether it held, and the numbers."""

    promise: str
    held: bool
    seen: str


def page(title: str, introduction: str, findings: Sequence[Finding], packages: Sequence[str]) -> str:
    """Markdown."""
    rows = "".join(
        f"| {each.promise} | {'yes' if each.held else '**NO**'} | {each.seen} |\n" for each in findings
    )
    return (
        f"# {title}\n\n{introduction}\n\nMachine: {machine()}. Versions: {versions(packages)}. Times are of one run on "
        "a machine that did other work too, and say that something happens, not how fast it can be.\n\n"
        f"| promise | held | seen |\n| --- | --- | --- |\n{rows}"
    )


def machine() -> str:
    """CPU, cores and memory."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    memory = psutil.virtual_memory().total / 2**30
    return f"{names[0] if names else platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB"


def versions(packages: Sequence[str]) -> str:
    """As installed here."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([*found, f"Python {platform.python_version()}"])

"""What a proof has found so far: kept in a file, so that it can be stopped and gone on with, and put on a page."""

import datetime
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from benchmarks.machine import describe

T = TypeVar("T")


class Entry(msgspec.Struct):
    """One line of the file.

    Attributes:
        origin: commit and day that the record is from.
        options: what it was run with; records of other options don't count for this run.
    """

    origin: tuple[str, str]
    options: dict[str, str | int | float]
    record: msgspec.Raw


class Kept(Generic[T]):
    """Records of one kind, one line of JSON each."""

    def __init__(self, path: Path, kind: type[T], options: dict[str, str | int | float]) -> None:
        """Load what earlier runs with the same options have left."""
        self.records: list[T] = []
        self.origins: list[tuple[str, str]] = []
        self.options = options
        self._path = path
        self._now = (_commit(), datetime.date.today().isoformat())
        for line in path.read_bytes().splitlines() if path.exists() else ():
            entry = msgspec.json.decode(line, type=Entry)
            if entry.options == options:
                self.records.append(msgspec.json.decode(entry.record, type=kind))
                self.origins.append(entry.origin)

    def add(self, record: T) -> None:
        """Keep one more."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        entry = Entry(self._now, self.options, msgspec.Raw(msgspec.json.encode(record)))
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
        self.records.append(record)
        self.origins.append(self._now)

    def provenance(self) -> str:
        """Where the records are from: for the end of a page."""
        commits = ", ".join(dict.fromkeys(commit for commit, _ in self.origins))
        days = " to ".join(dict.fromkeys((min(d for _, d in self.origins), max(d for _, d in self.origins))))
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{options}.\n\n{days}, commit {commits}, {describe()}. Client and server share the machine."


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def command_line() -> str:
    """What this process was started with, to be put on a page."""
    return f".venv/bin/python -m tools.reliability {shlex.join(sys.argv[1:])}"


def verdict(problems: Sequence[str]) -> str:
    """Broken promises, for a page."""
    return "\n".join(f"* {problem}" for problem in problems) or "None."


def milliseconds(seconds: float) -> str:
    """For a table."""
    return f"{seconds * 1000:.0f} ms" if seconds < 9.9995 else f"{seconds:.1f} s"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"

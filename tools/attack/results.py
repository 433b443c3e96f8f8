"""What came of an attack, as data that is kept in a file per part and server."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.attack.canary import CanaryCount
from tools.attack.footing import Footing

MAX_EXAMPLES = 6


@dataclass(slots=True)
class RowResult:
    """How a server did on a row.

    Attributes:
        passed: cases without any problem.
        unsafe: cases with a problem that no server should have.
        applies: False if the server has nothing that the row is about.
        problems: a few, as text.
    """

    id: str
    what: str
    cases: int = 0
    passed: int = 0
    unsafe: int = 0
    applies: bool = True
    kinds: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def safe(self) -> int:
        return self.cases - self.unsafe


@dataclass(slots=True)
class Around:
    """What was measured around a part.

    Attributes:
        health_ms: p50, p99 and maximum of the health path.
        changed: what was not as before in the end; empty if all was.
    """

    health_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    health_probes: int = 0
    health_failures: int = 0
    canaries: CanaryCount = field(default_factory=CanaryCount)
    exits: int = 0
    hangs: int = 0
    before: Footing = field(default_factory=Footing)
    after: Footing = field(default_factory=Footing)
    changed: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Part:
    """One part of the attack on one server.

    Attributes:
        part: catalogue, mutations, disconnects or exact.
        statuses: answers by status, "-" for none.
        overloads: answers of 429 or 503 with Retry-After, after which the case was sent again.
        beside: cases that got no answer beside others, but did alone.
        cut: why it ended before its end, "" if it didn't.
    """

    part: str
    server: str
    version: str
    model: str
    machine: str
    commit: str
    date: str
    seed: int = 0
    requests: int = 0
    seconds: float = 0.0
    overloads: int = 0
    beside: int = 0
    cut: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    rows: list[RowResult] = field(default_factory=list)
    around: Around = field(default_factory=Around)

    def count(self, row: RowResult, status: str, problems: list[Any]) -> None:
        """Add one case; `problems` are `oracle.Problem`s."""
        self.requests += 1
        self.statuses[status] = self.statuses.get(status, 0) + 1
        row.cases += 1
        row.passed += not problems
        row.unsafe += any(problem.unsafe for problem in problems)
        row.kinds = dict(Counter(row.kinds) + Counter(str(problem.kind) for problem in problems))

    @property
    def passed(self) -> int:
        return sum(row.passed for row in self.rows)

    @property
    def unsafe(self) -> int:
        return sum(row.unsafe for row in self.rows)

    def kind(self, name: str) -> int:
        """Problems of a kind in all rows."""
        return sum(row.kinds.get(name, 0) for row in self.rows)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.part}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Part":
        values = json.loads(path.read_text())
        around = values.pop("around")
        for name in ("before", "after"):
            pids = tuple((pid, started) for pid, started in around[name].pop("pids"))
            around[name] = Footing(**around[name], pids=pids)
        around["canaries"] = CanaryCount(**around["canaries"])
        around["health_ms"] = tuple(around["health_ms"])
        rows = [RowResult(**row) for row in values.pop("rows")]
        return cls(**values, rows=rows, around=Around(**around))


def note(row: RowResult, text: str) -> None:
    """Keep an example of a problem."""
    if len(row.problems) < MAX_EXAMPLES:
        row.problems.append(text)

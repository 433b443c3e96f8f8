"""What trials gave: kept in a file, so that a long run can be stopped and gone on with, and put on a page."""

import json
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.mutation.mutants import Mutant
from tools.mutation.trial import Outcome

VERDICTS = Path(__file__).with_name("verdicts.toml")


@dataclass(frozen=True, slots=True)
class Tried:
    """A mutant's result; `key` is the mutant's."""

    key: str
    mutant: str
    outcome: Outcome
    seconds: float


@dataclass(slots=True)
class Results:
    """All results so far by key, one line of JSON each in `path`; a later line replaces an earlier one."""

    path: Path
    tried: dict[str, Tried] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What an earlier run left, or nothing."""
        results = cls(path)
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                tried = Tried(**json.loads(line))
                results.tried[tried.key] = tried
        return results

    def add(self, tried: Tried) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(tried)) + "\n")
        self.tried[tried.key] = tried


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a survivor is no gap: it computes the same. `text` is its line as it was."""

    module: str
    text: str
    before: str
    after: str
    why: str


def load_verdicts(path: Path = VERDICTS) -> list[Verdict]:
    """All verdicts on file."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("verdict", [])
    return [Verdict(**entry) for entry in entries]


def verdict_of(mutant: Mutant, verdicts: list[Verdict]) -> str | None:
    """Why this mutant may survive, if that has been judged."""
    what = (mutant.module, mutant.text, mutant.before, mutant.after)
    for verdict in verdicts:
        if (verdict.module, verdict.text, verdict.before, verdict.after) == what:
            return verdict.why
    return None


def page(mutants: list[Mutant], results: Results, verdicts: list[Verdict], where: str) -> str:
    """docs/results/mutation.md.

    Args:
        where: day, commit and machine.
    """
    outcomes = {
        mutant.key: results.tried[mutant.key].outcome for mutant in mutants if mutant.key in results.tried
    }
    lines, survivors = [], []
    modules = list(dict.fromkeys(mutant.module for mutant in mutants))
    for module in [*modules, None]:
        mine = [m for m in mutants if module in (m.module, None) and m.key in outcomes]
        lines.append(_line(module, mine, outcomes, verdicts))
    for mutant in mutants:
        if outcomes.get(mutant.key) == "survived":
            why = verdict_of(mutant, verdicts) or "**not judged: a test is missing**"
            change = f"`{_short(mutant.before)}` → `{_short(mutant.after)}`"
            survivors.append(f"| `{mutant.module}:{mutant.line}` {mutant.place} | {change} | {why} |")
    untried = len(mutants) - len(outcomes)
    note = f"\n{untried} mutants have not been tried yet.\n" if untried else ""
    return f"""# Mutation score

    make mutation
    .venv/bin/python -m tools.mutation --module scheduler.block_pool --again     # survivors only

Each mutant is the scheduler with one small change (`tools/mutation/mutants.py`). Tried on it are `tests/scheduler`,
then, if they pass, 8,000 steps of the simulator, of which CI runs 200,000. A mutant that loops without end counts as
noticed. *Score* leaves out those survivors that were judged equivalent; each is listed below with the reason.

| module | mutants | noticed by tests | by the simulator | out of time | survived | judged equivalent | score |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}
{note}
## Survivors

| where | change | verdict |
|---|---|---|
{chr(10).join(survivors)}

Why no library: mutmut 3 leaves decorated functions alone, which here are all properties, and cosmic-ray starts a
process per mutant, each with seconds for importing torch; neither runs a second line of defence only where the first
one held. What is used here is 350 lines.

{where}
"""


def _line(
    module: str | None, mine: list[Mutant], outcomes: dict[str, Outcome], verdicts: list[Verdict]
) -> str:
    counts = Counter(outcomes[mutant.key] for mutant in mine)
    survived = [mutant for mutant in mine if outcomes[mutant.key] == "survived"]
    judged = sum(verdict_of(mutant, verdicts) is not None for mutant in survived)
    real = len(mine) - judged
    score = f"{(len(mine) - len(survived)) / real:.1%}" if real else "–"
    name = "**all**" if module is None else f"`{module}`"
    cells = [len(mine), counts["tests"], counts["simulation"], counts["time"], len(survived), judged, score]
    return f"| {name} | " + " | ".join(str(cell) for cell in cells) + " |"


def _short(text: str) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= 90 else flat[:87] + "..."

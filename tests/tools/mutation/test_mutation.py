"""Mutants are what they say, and trials tell those that are noticed from those that are not."""

import ast
import subprocess
import sys
from pathlib import Path

from tools.mutation.mutants import Mutant, mutants_of
from tools.mutation.results import Results, Tried, Verdict, load_verdicts, page, verdict_of

ROOT = Path(__file__).parents[3]

MODULE = '''"""A module: 1 < 2."""

def f(values: list[int], ünit: str = "1", *, late: bool = False) -> int:
    """Text."""
    assert values
    total = 0
    for value in values[1:]:
        if value < 3 and late:
            continue
        total += min(value, -2) * 5
    self.x = sorted(values, key=g)
    if late:
        raise ValueError(f"{total + 1} in 3")
    return total if not late else None
'''

CHANGES = {
    "values[(2):]",
    "values[:]",
    "(value <= 3) and late",
    "value < (4) and late",
    "(value < 3 or late)",
    "if (value < 3)",
    "if (late)",
    "break",
    "total -= ",
    "(max(value, -2))",
    "min(value, (2))",
    "min(value, -(3))",
    "// 5",
    "* (6)",
    "(values)\n",
    "(sorted(values))",
    "if (not late):",
    "return None\n",
    "(late) else None",
    "None if not late else total",
    "late: bool = (True)",
    "total = (1)",
}


def mutants(tmp_path: Path) -> list[Mutant]:
    path = tmp_path / "module.py"
    path.write_text(MODULE, encoding="utf-8")
    return mutants_of("module", path)


def test_every_kind_of_change_is_made_and_each_makes_one_other_module(tmp_path: Path) -> None:
    found = mutants(tmp_path)
    for mutant in found:
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(MODULE)), mutant
        assert mutant.place == "f"
        assert mutant.text == MODULE.split("\n")[mutant.line - 1].strip()
        assert mutant.after in mutant.source
        changed = [a != b for a, b in zip(mutant.source.split("\n"), MODULE.split("\n"), strict=True)]
        assert sum(changed) == 1
        assert changed[mutant.line - 1]
    assert len({mutant.key for mutant in found}) == len(found)
    for change in CHANGES:
        assert any(change in mutant.source for mutant in found), change


def test_texts_assertions_and_annotations_are_left_alone(tmp_path: Path) -> None:
    for mutant in mutants(tmp_path):
        for kept in (
            '"""A module: 1 < 2."""',
            '"""Text."""',
            "assert values",
            'ünit: str = "1"',
            "list[int]",
        ):
            assert kept in mutant.source
        assert "{total + 1} in 3" in mutant.source or mutant.after == "pass"


SCRIPT = """
from dataclasses import replace
from pathlib import Path
import tools.mutation.trial as trial
from tools.mutation.mutants import mutants_of
trial.SIMULATED_STEPS = 100
trial.CPU_SECONDS = 20
trial.preload()
one = mutants_of("scheduler.carry_pool", Path("scheduler/carry_pool.py"))[0]
original = Path("scheduler/carry_pool.py").read_text()
def outcome(old, new, tests):
    assert old in original
    return trial.try_mutant(replace(one, source=original.replace(old, new)), tests)
tests = [["tests/scheduler/test_carry_pool.py"]]
print(outcome("ZERO_SLOT = 0", "ZERO_SLOT = 0  # the same", tests))
print(outcome("self.free.extend(slots)", "pass", tests))
print(outcome("self.free.extend(slots)", "pass", []))
trial.CPU_SECONDS = 2
print(outcome("ZERO_SLOT = 0", "ZERO_SLOT = 0\\nwhile True: pass", tests))
"""


def test_trials_tell_what_notices_a_mutant() -> None:
    """The first is none; the third is tried without tests."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.stdout.split() == ["survived", "tests", "simulation", "time"], done.stderr


def test_scores_count_what_is_judged_equivalent_out(tmp_path: Path) -> None:
    found = mutants(tmp_path)[:5]
    results = Results(tmp_path / "kept" / "results.jsonl")
    for mutant, outcome in zip(
        found, ("tests", "simulation", "survived", "survived", "survived"), strict=True
    ):
        results.add(Tried(mutant.key, str(mutant), outcome, 0.5))
    results.add(Tried(found[4].key, str(found[4]), "time", 0.5))
    assert Results.load(results.path).tried == results.tried
    equal = found[2]
    verdict = Verdict(equal.module, equal.text, equal.before, equal.after, "computes the same")
    assert verdict_of(equal, [verdict]) == "computes the same"
    assert verdict_of(found[3], [verdict]) is None
    text = page(found, results, [verdict], "here")
    assert "| `module` | 5 | 1 | 1 | 1 | 2 | 1 | 75.0% |" in text
    assert "computes the same" in text
    assert "not judged: a test is missing" in text
    assert "have not been tried" not in text
    assert "1 mutants have not been tried yet" in page([*found, mutants(tmp_path)[6]], results, [], "here")


def test_verdicts_are_about_mutants_that_exist() -> None:
    modules = {verdict.module for verdict in load_verdicts()}
    existing = [
        m for module in modules for m in mutants_of(module, ROOT / (module.replace(".", "/") + ".py"))
    ]
    known = {(m.module, m.text, m.before, m.after) for m in existing}
    for verdict in load_verdicts():
        assert (verdict.module, verdict.text, verdict.before, verdict.after) in known, verdict

"""docs/results/exactness.md."""

from dataclasses import dataclass
from datetime import date

from tools.exactness.one_seed import Answers
from tools.exactness.situations import SITUATIONS, Totals


@dataclass(frozen=True, slots=True)
class Run:
    """A run and where it was done.

    Attributes:
        failures: texts, one per case that failed.
        cpu_seconds: of the whole run.
    """

    seed: int
    totals: Totals
    answers: Answers
    failures: list[str]
    cpu_seconds: float
    machine: str
    commit: str
    day: date

    @property
    def passed(self) -> bool:
        """Nothing differed, and nothing was left untried."""
        return not self.failures and not self.totals.missing and len(self.answers.distinct) == 1


def page(run: Run) -> str:
    totals, answers = run.totals, run.answers
    counts = [
        ("requests compared with the same request alone", totals.compared),
        ("sampled positions whose logits were compared", totals.positions),
        ("float32 logits compared, by their bits", totals.values),
        ("cases (random checkpoint or demo model × formats × limits × crowd)", totals.cases),
        ("passes of the crowds' engines", totals.steps),
        ("most rows of one pass", totals.most_rows),
        ("preemptions", totals.preemptions),
        ("evictions", totals.evictions),
        ("**cases in which a bit differed, or what belongs to nobody was read**", len(run.failures)),
    ]
    situations = "\n".join(f"| {name} | {totals.situations[name]:,} |" for name in SITUATIONS)
    rows = "\n".join(f"| {name} | {count:,} |" for name, count in counts)
    found = "".join(f"\n* `{text.splitlines()[0]}`, `{text.splitlines()[-1]}`" for text in run.failures)
    cases = totals.cases + len(run.failures)
    answers_text = "answer" if len(answers.distinct) == 1 else "answers"
    return f"""# Exactness

    make exactness
    .venv/bin/python -m tools.exactness --seed {run.seed} --cases {cases} --crowds {answers.crowds}
    .venv/bin/python -m tools.exactness --seed N --case C      # replay

A request gets the same bits in any crowd as alone. Each case makes a checkpoint (or takes the demo model), serves a
random crowd with the real engine core and CPU backend, then runs every request of the crowd alone on a fresh engine of
the same weights, its whole prompt in one pass. Tokens, finish reasons, log-probabilities and the float32 logits behind
every sampled token must be equal bit for bit; for aborted requests, as far as they got.

In the crowd's engine, whatever belongs to nobody is NaN: the whole memory at first, blocks (keys, values and the H
beside them) when they are freed, evicted or handed out, carry slots when they are given back. Anything that reads it
has NaN logits. `tests/tools/exactness/mutations.py` has the bugs that this is known to catch.

| | |
|---|---|
{rows}
{found}
| situation of a compared request | requests |
|---|---|
{situations}

The run fails if any of these never occurs.

**One seed.** One sampled request (temperature 1, top-p 0.95, seed 42) came into {answers.crowds:,} different crowds
under different limits, and shared passes with others in {answers.in_company:,} of them: **{len(answers.distinct)}**
distinct {answers_text}, tokens and logits.

What this does not cover: GPUs ([gpu.md](../gpu.md)), tensor parallelism, grammars, and other CPUs than the one below;
every server checks its own machine when it starts (`--self-check`).

Seed {run.seed}, {run.day.isoformat()}, commit {run.commit}, {run.cpu_seconds:,.0f} CPU seconds on one thread,
{run.machine}.
"""

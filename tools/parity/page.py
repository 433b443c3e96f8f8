"""docs/results/parity.md from one run."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.parity.cases import PROMPT_TOKENS, SAMPLED_TOKENS
from tools.parity.implementations import IMPLEMENTATIONS

INTRODUCTION = f"""# Beside independent implementations

    make parity

Tiny random float32 checkpoints of every family ({PROMPT_TOKENS} random prompt tokens and {SAMPLED_TOKENS} sampled ones,
more than any window) through our engine on the CPU backend and through somebody else's code. Ours runs in three ways:
the whole as one prompt, one token per pass, and as any request: a prompt whose later loops start at its tail where the
family allows that, then decoding. mlx-lm and transformers get one token at a time, with their own caches; vLLM gets the
prompt in chunks of four. An error is the largest difference of a logit at any position from any of these; a wrong
window, norm, bias or loop is off by 0.1 to 5.

vLLM removed its Ouro model on 25 July 2026; the file of the 0.26.0 wheel runs in the version named here, which was the
only independent code on a package index that runs Ouro. IQuest-Coder-V1-40B-Loop in mlx-lm knows two loops only; vLLM
checks three.
"""


@dataclass(frozen=True)
class Result:
    """One checkpoint beside one implementation: largest differences of logits, by how ours ran."""

    family: str
    title: str
    reference: str
    version: str
    whole: float
    one_by_one: float
    decoded: float
    largest_logit: float

    @property
    def worst(self) -> float:
        return max(self.whole, self.one_by_one, self.decoded)


def page(results: Sequence[Result], machine: str) -> str:
    """The page as Markdown."""
    lines = [INTRODUCTION, "| family | reference | checkpoints | max error |", "|---|---|---|---|"]
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.family, result.reference, result.version), []).append(result)
    for (family, reference, version), group in groups.items():
        worst = max(result.worst for result in group)
        lines.append(f"| {family} | {_name(reference)} {version} | {len(group)} | {worst:.1e} |")
    lines += [
        *("", "By checkpoint:", ""),
        "| family | checkpoint | reference | one prompt | one by one | decoded | largest logit |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        lines.append(
            f"| {result.family} | {result.title} | {_name(result.reference)} | {result.whole:.1e} | "
            f"{result.one_by_one:.1e} | {result.decoded:.1e} | {result.largest_logit:.1f} |"
        )
    return "\n".join([*lines, "", f"On {machine}.", ""])


def _name(reference: str) -> str:
    return IMPLEMENTATIONS[reference].title

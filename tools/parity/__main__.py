"""Compare our logits with those of independent implementations.

    python -m tools.parity --environments build/peers --work build/parity --page docs/results/parity.md

`tools/parity/install.sh` installs them first; `make parity` does both.
"""

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from tests.make_checkpoint import MIN_VOCAB_SIZE, make_checkpoint
from tools.parity import goldens, ours
from tools.parity.cases import CASES, PROMPT_TOKENS, SAMPLED_TOKENS, Case
from tools.parity.implementations import IMPLEMENTATIONS, run, version
from tools.parity.page import Result, page

MOST = 1e-4
"""Of a difference that rounding explains: logits are O(1) to 10, in float32."""


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Compare our logits with others'.")
    parser.add_argument("--environments", type=Path, default=Path("build/peers"))
    parser.add_argument("--work", type=Path, default=Path("build/parity"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/parity.md"))
    parser.add_argument("--goldens", type=Path, default=Path("tests/engine/goldens/parity.json"))
    args = parser.parse_args()
    # Not resolved: an environment may be a link, and its path is its identity.
    environments, work = args.environments.absolute(), args.work.absolute()
    directories = {case.name: work / "checkpoints" / case.name for case in CASES}
    decoded = {case.name: _prepare(case, directories[case.name]) for case in CASES}
    for name in IMPLEMENTATIONS:
        run(name, environments, work, [directories[case.name] for case in CASES if name in case.references])
    versions = {name: version(name, environments) for name in IMPLEMENTATIONS}
    results = [
        result
        for case in CASES
        for result in _compare(case, directories[case.name], decoded[case.name], versions)
    ]
    args.page.write_text(page(results, describe()), encoding="utf-8")
    goldens.write(args.goldens, [_golden(case, directories[case.name], versions) for case in CASES])
    for result in results:
        sys.stdout.write(f"{result.worst:.1e}  {result.family}, {result.title}: {result.reference}\n")
    if max(result.worst for result in results) > MOST:
        sys.exit(f"a difference is above {MOST}")


def _prepare(case: Case, directory: Path) -> np.ndarray:
    """Write the checkpoint and its tokens; our logits while they were sampled."""
    shutil.rmtree(directory, ignore_errors=True)
    make_checkpoint(directory, case.config, case.seed)
    draw = random.Random(case.seed)
    prompt = [draw.randrange(8, MIN_VOCAB_SIZE) for _ in range(PROMPT_TOKENS)]
    tokens, logits = ours.sampled(directory, prompt, SAMPLED_TOKENS)
    (directory / "tokens.json").write_text(json.dumps(tokens))
    return logits


def _compare(case: Case, directory: Path, decoded: np.ndarray, versions: dict[str, str]) -> list[Result]:
    tokens = json.loads((directory / "tokens.json").read_text())
    whole, one_by_one = ours.whole(directory, tokens), ours.one_by_one(directory, tokens)
    results = []
    for name in case.references:
        theirs = np.load(directory / f"{name}.npy")
        assert theirs.shape == whole.shape == one_by_one.shape
        results.append(
            Result(
                family=case.family,
                title=case.title,
                reference=name,
                version=versions[name],
                whole=_difference(whole, theirs),
                one_by_one=_difference(one_by_one, theirs),
                decoded=_difference(decoded, theirs[PROMPT_TOKENS - 1 : len(tokens) - 1]),
                largest_logit=float(np.abs(theirs).max()),
            )
        )
    return results


def _golden(case: Case, directory: Path, versions: dict[str, str]) -> dict[str, object]:
    tokens = json.loads((directory / "tokens.json").read_text())
    first = case.references[0]
    return goldens.golden(case, tokens, versions[first], np.load(directory / f"{first}.npy"))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max())


if __name__ == "__main__":
    main()

"""Diagnose the demo trainings with different numbers of loops on what none of them has seen.

    python -m tools.diagnose_demo models/demo build/loops-1 build/loops-3

Writes a report of each to docs/results/loops and a table of all to docs/results/loops.md. The text is the held-out part
of the demo model's corpus, as far as this environment has it installed: packages and modules of the standard library.
"""

import argparse
import importlib.util
import sys
import sysconfig
from pathlib import Path

from diagnostics.diagnose import diagnose
from diagnostics.estimates import Estimates, interval
from diagnostics.metrics import Sums
from diagnostics.page import html
from diagnostics.plan import Plan
from diagnostics.report import Report
from engine.options import EngineOptions
from tools.demo_model.corpus import HELD_OUT_PACKAGES, HELD_OUT_STDLIB

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "results" / "loops.md"
HEAD = """# What each loop gains: the demo trainings

Written by `make diagnose-demo`; what is measured and how: [diagnose.md](../diagnose.md). The text is the held-out part
of the demo model's corpus ({files}): {documents} files, each cut at {most} tokens, {tokens:,} predicted tokens.
Intervals: 95 %, bootstrap over files.

"""


def held_out_files() -> list[Path]:
    """Directories of packages and files of modules; what isn't installed is left out."""
    names = [requirement.partition("==")[0] for requirement in HELD_OUT_PACKAGES]
    specs = [spec for name in names if (spec := importlib.util.find_spec(name)) is not None]
    packages = [Path(spec.origin).parent for spec in specs if spec.origin is not None]
    library = Path(sysconfig.get_path("stdlib"))
    return [*packages, *(library / module for module in HELD_OUT_STDLIB)]


def table(reports: dict[str, Report]) -> str:
    """Losses after each loop, gain and offset cost of the last, and the paired difference from the best model."""
    most = max(report.model.loops for report in reports.values())
    header = [
        "model",
        "R",
        *(f"loss after {loop}" for loop in range(1, most + 1)),
        "gain of the last",
        "its offset cost",
        "loss above the best's, paired",
    ]
    differences = _differences(list(reports.values()))
    rows = [
        _row(name, report, most, above)
        for (name, report), above in zip(reports.items(), differences, strict=True)
    ]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(name: str, report: Report, most: int, above: str) -> list[str]:
    loops = report.model.loops

    def cell(key: str, loop: int) -> str:
        values = report.metric(key).values
        estimate = values[loop - 1] if loop <= loops else None
        if estimate is None:
            return "–"
        spread = "" if estimate.low is None else f" ({estimate.low:.3f} … {estimate.high:.3f})"
        return f"{estimate.value:.3f}{spread}"

    return [
        f"[{name}](loops/{name}.html)",
        str(loops),
        *(cell("loss", loop) for loop in range(1, most + 1)),
        cell("gain", loops),
        cell("offset_cost_normed", loops),
        above,
    ]


def _differences(reports: list[Report]) -> list[str]:
    """Of each model's last loss from the lowest, by documents that all have measured."""
    texts = [[(each.source, each.predicted_tokens) for each in report.documents] for report in reports]
    if any(text != texts[0] for text in texts):
        raise ValueError("the reports are of different texts, or were cut differently")
    documents = []
    for of_one in zip(*(report.documents for report in reports), strict=True):
        sums = Sums(len(reports))
        for number, (report, document) in enumerate(zip(reports, of_one, strict=True), start=1):
            count = document.predicted_tokens
            sums.add("loss", number, document.losses[report.model.loops - 1] * count, count)
        documents.append(sums)
    estimates = Estimates.of(documents, seed=0)
    means = [estimate.value for n in range(len(reports)) if (estimate := estimates.get("loss", n + 1))]
    best, draws = means.index(min(means)), estimates.draws("loss")
    cells = []
    for number, mean in enumerate(means):
        if number == best:
            cells.append("best")
            continue
        low, high = interval(draws[:, number] - draws[:, best])
        cells.append(f"{mean - means[best]:.3f} ({low:.3f} … {high:.3f})")
    return cells


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Diagnose the demo trainings.")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--documents", type=int, default=Plan().most_documents)
    parser.add_argument("--max-tokens", type=int, default=512)
    args = parser.parse_args()
    plan, files = Plan(most_documents=args.documents, most_tokens=args.max_tokens), held_out_files()
    folder = PAGE.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    reports: dict[str, Report] = {}
    for model in args.models:
        report = diagnose(EngineOptions(model_dir=str(model)), files, plan)
        (folder / f"{model.name}.html").write_text(html(report), encoding="utf-8")
        reports[model.name] = report
        sys.stdout.write(f"{model.name}: {' '.join(report.verdict.sentences)}\n")
    (any_report, *_) = reports.values()
    head = HEAD.format(
        documents=any_report.corpus.used,
        files=", ".join([*HELD_OUT_PACKAGES, *HELD_OUT_STDLIB]),
        most=args.max_tokens,
        tokens=any_report.corpus.predicted_tokens,
    )
    verdicts = "".join(
        f"\n**{name}.** {' '.join([*report.verdict.sentences, *report.notes])}\n"
        for name, report in reports.items()
    )
    PAGE.write_text(f"{head}{table(reports)}\n{verdicts}", encoding="utf-8")


if __name__ == "__main__":
    main()

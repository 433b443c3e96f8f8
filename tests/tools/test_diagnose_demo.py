"""The table of several models on the same texts."""

from pathlib import Path

import pytest

from diagnostics.diagnose import diagnose
from diagnostics.plan import Plan
from diagnostics.report import Report
from engine.options import EngineOptions
from tests.diagnostics.measuring import windowed
from tools import diagnose_demo
from tools.demo_model.corpus import HELD_OUT_STDLIB


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"text {number} of some words" * (number + 1))
    plan = Plan(most_tokens=40, attention_positions=2)
    return {
        f"loops-{loops}": diagnose(EngineOptions(model_dir=str(windowed(loops).path)), [folder], plan)
        for loops in (1, 2, 3)
    }


def test_models_are_compared_document_by_document(reports: dict[str, Report]) -> None:
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in diagnose_demo.table(reports).splitlines()
    )
    assert header[:5] == ["model", "R", "loss after 1", "loss after 2", "loss after 3"]
    last = [report.metric("loss").values[report.model.loops - 1] for report in reports.values()]
    losses = [value.value for value in last if value is not None]
    best = losses.index(min(losses))
    for number, (name, row) in enumerate(zip(reports, rows, strict=True)):
        assert row[:2] == [f"[{name}](loops/{name}.html)", str(number + 1)]
        assert row[2 + number].startswith(f"{losses[number]:.3f} (")
        assert row[3 + number : 5] == ["–"] * (2 - number)
        difference = losses[number] - losses[best]
        assert row[-1] == "best" if number == best else row[-1].startswith(f"{difference:.3f} (")
    assert rows[0][5:7] == ["–", "–"]  # one loop gains nothing on another and has no offset


def test_a_model_compared_with_itself_differs_by_nothing(reports: dict[str, Report]) -> None:
    one = reports["loops-2"]
    assert "0.000 (0.000 … 0.000)" in diagnose_demo.table({"a": one, "b": one})


def test_reports_of_other_texts_are_not_compared(reports: dict[str, Report], tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other text")
    other = diagnose(EngineOptions(model_dir=str(windowed(2).path)), [tmp_path], Plan(most_tokens=20))
    with pytest.raises(ValueError, match="different texts"):
        diagnose_demo.table({"a": reports["loops-2"], "b": other})


def test_the_text_is_what_the_demo_model_was_not_trained_on() -> None:
    files = diagnose_demo.held_out_files()
    assert [file.name for file in files][-len(HELD_OUT_STDLIB) :] == list(HELD_OUT_STDLIB)
    assert {"httpx", "starlette"} <= {file.name for file in files}
    assert all(file.exists() for file in files)

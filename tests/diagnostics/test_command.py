"""`loopserve diagnose` as people run it."""

import gc
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import diagnostics
from diagnostics.corpus import Corpus
from diagnostics.diagnose import diagnose
from diagnostics.errors import DiagnosticsError
from diagnostics.metrics import METRICS
from diagnostics.plan import Plan
from diagnostics.report import SCHEMA, Report
from engine.options import EngineOptions
from server.cli import run
from tests.diagnostics.measuring import measured_of, windowed
from tests.engine.harness import checkpoint


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"a text of its own, {number}, {'and more ' * number}")
    (folder / "more.jsonl").write_text('{"text": "from a line"}\n{"text": "x"}\nnonsense\n')
    return folder


def report_of(path: Path) -> Report:
    values = json.loads(path.read_text())
    assert values.pop("schema") == SCHEMA
    return msgspec.convert(values, Report, strict=True)


def test_it_writes_all_three_reports(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "place"
    model = str(windowed(3).path)
    assert run(["diagnose", model, "--data", str(data), "--output", str(output), "--max-tokens", "40"]) == 0
    assert {path.name for path in output.iterdir()} == {"report.json", "report.html"}
    report = report_of(output / "report.json")
    assert (report.corpus.used, report.corpus.found) == (5, 7)
    assert report.corpus.skipped == {"fewer than two tokens": 1, "not JSON": 1}
    assert [metric.key for metric in report.metrics] == [metric.key for metric in METRICS]
    assert all(len(metric.values) == 4 for metric in report.metrics)
    assert report.has_extra_loop
    assert (report.model.loops, len(report.gates), len(report.serving)) == (3, 4, 3)
    assert all(sum(share) == pytest.approx(1) for share in report.shares.values())
    assert report.shares.keys() == {"output_shift", "attention_kl", "token_change"}
    said = capsys.readouterr().out
    assert all(sentence in " ".join(said.split()) for sentence in report.verdict.sentences)
    assert "offset cost, normed" in said
    assert (output / "report.html").read_text().startswith("<!doctype html>")


def test_files_may_follow_as_a_shell_spells_them_out(data: Path, tmp_path: Path) -> None:
    files = [str(data / f"{number}.txt") for number in range(3)]
    arguments = [str(windowed(2).path), "--data", *files, "--no-html", "--output", str(tmp_path)]
    assert run(["diagnose", *arguments]) == 0
    report = report_of(tmp_path / "report.json")
    assert report.corpus.files == ["0.txt", "1.txt", "2.txt"]
    assert not (tmp_path / "report.html").exists()


def test_one_document_says_that_there_is_no_uncertainty(data: Path, tmp_path: Path) -> None:
    arguments = [str(windowed(2).path), "--data", str(data / "3.txt"), "--no-html", "--output", str(tmp_path)]
    assert run(["diagnose", *arguments]) == 0
    report = report_of(tmp_path / "report.json")
    assert report.verdict.certainty == "no uncertainty"
    assert all(value is None or value.low is None for metric in report.metrics for value in metric.values)


def test_a_longer_document_is_cut_and_counted(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("0123456789" * 500)
    (tmp_path / "short.txt").write_text("0123456789")
    options = EngineOptions(model_dir=str(windowed(2).path))
    report = diagnose(options, [tmp_path / "long.txt", tmp_path / "short.txt"], Plan(most_tokens=32))
    assert (report.corpus.cut, report.corpus.used) == (1, 2)
    assert report.corpus.predicted_tokens == report.corpus.tokens - 2
    assert report.corpus.tokens <= 32 + 11


def test_what_is_left_out_is_said(data: Path) -> None:
    def notes(model: Any, **plan: Any) -> str:
        found = diagnose(EngineOptions(model_dir=str(model.path)), [data], Plan(most_tokens=16, **plan))
        return " ".join(found.notes)

    assert "lacks what a second loop needs" in notes(windowed(1))
    assert "by design" not in notes(windowed(1, shift=0))  # of one loop there is nothing more to say
    assert "say nothing where there is one" in notes(windowed(2))
    assert "not asked for" in notes(windowed(2), extra_loop=False)
    assert "offset cost is zero by design" in notes(windowed(3, shift=0))
    assert "not looked at" in notes(windowed(2), attention_positions=0)
    assert "Shares" not in notes(windowed(3))


def test_an_fp8_cache_gets_no_extra_loop(data: Path) -> None:
    options = EngineOptions(
        model_dir=str(windowed(2).path), kv_cache_dtype="fp8", attention_backend="reference"
    )
    report = diagnose(options, [data], Plan(most_tokens=12))
    assert not report.has_extra_loop
    assert "fp8" in " ".join(report.notes)


def test_excerpts_are_spread_over_the_documents(tmp_path: Path) -> None:
    lines = ["{}" if number == 5 else json.dumps({"text": f"text {number}"}) for number in range(11)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    options = EngineOptions(model_dir=str(windowed(2).path))
    report = diagnose(options, [tmp_path / "x.jsonl"], Plan(most_tokens=12, attention_positions=1))
    assert [excerpt.source for excerpt in report.excerpts] == [f"x.jsonl, line {n}" for n in (2, 7, 10)]


def test_the_loss_is_that_of_prompt_logprobs(data: Path) -> None:
    """What the server says of the same text, token by token."""
    model = windowed(3)
    report = diagnose(EngineOptions(model_dir=str(model.path)), [data / "3.txt"], Plan(most_tokens=40))
    measured = measured_of(model, Plan(most_tokens=40))
    ids = measured.tokenizer.encode((data / "3.txt").read_text(), parse_special=False)[:40]
    answer = model.driver().one(ids, max_tokens=1, prompt_logprobs=0)
    scores = [token.logprob for token in answer.prompt_logprobs[1:]]
    loss = report.metric("loss").values[2]
    assert loss is not None
    assert loss.value == pytest.approx(-sum(scores) / len(scores), rel=1e-5)
    for budget in (1, 2):
        answer = model.driver().one(ids, max_tokens=1, prompt_logprobs=0, loops=budget)
        scores = [token.logprob for token in answer.prompt_logprobs[1:]]
        value = report.metric("loss").values[budget - 1]
        assert value is not None
        assert value.value == pytest.approx(-sum(scores) / len(scores), rel=1e-5)


def test_numbers_that_are_none_cost_the_document_only(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measured_of(windowed(2), Plan(most_tokens=16))
    corpus = Corpus([], 0, True)
    model = measured.model.runner.model
    logits = type(model).logits
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "logits", lambda self, normed: logits(self, normed) * math.nan)
        measured.add("bad", "some text", corpus, with_excerpt=True)
    measured.add("good", "some text", corpus, with_excerpt=False)
    assert len(measured.documents) == 1
    assert corpus.skipped == {"the model's numbers were not finite": 1}


def test_memory_does_not_grow_with_the_number_of_documents() -> None:
    """Tensors alive after each of thirty documents: as many bytes as after the second."""
    measured = measured_of(windowed(2), Plan(most_tokens=64, excerpts=1))
    corpus, alive = Corpus([], 0, True), []
    for number in range(30):
        measured.add(str(number), f"text {number:02} " * 20, corpus, with_excerpt=number == 0)
        if number in (1, 29):
            gc.collect()
            alive.append(sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor))
    assert len(measured.documents) == 30
    assert alive[0] == alive[1]
    assert len(measured.excerpts) == 1
    assert all(sums.totals.nbytes < 1000 for sums in measured.documents)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "no such file"),
        (["--data", "{data}", "--documents", "0"], "--documents"),
        (["--data", "{data}", "--dtype", "float8"], "--dtype must be one of"),
        (["--data", "{data}", "--model-overrides", "["], "JSON object"),
        (["--data", "{data}", "--max-tokens", "1"], "--max-tokens"),
        (["--data", "{data}", "--output", "{data}/0.txt/x"], "can't be made"),
        (["--data", "{data}", "--max-rows-per-step", "2"], "need at least 3"),
        ([], "--data"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = str(windowed(2).path)
    given = [argument.format(data=data) for argument in arguments]
    output = [] if "--output" in given else ["--output", str(tmp_path)]
    assert run(["diagnose", model, "--no-html", *given, *output]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_text_without_two_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DiagnosticsError, match="fewer than two tokens"):
        diagnose(EngineOptions(model_dir=str(windowed(2).path)), [tmp_path / "x.txt"], Plan())


def test_without_matplotlib_nothing_is_measured_in_vain(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("page", "plots"):
        monkeypatch.delitem(sys.modules, f"diagnostics.{module}", raising=False)
        monkeypatch.delattr(diagnostics, module, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    command = importlib.import_module("diagnostics.command")
    monkeypatch.setattr(command, "diagnose", lambda *_: pytest.fail("it measured"))
    arguments = ["diagnose", str(windowed(2).path), "--data", str(data), "--output", str(tmp_path / "out")]
    assert run(arguments) == 2
    assert "pip install 'loopserve[diagnose]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_that_cannot_be_written_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").mkdir()
    arguments = [str(windowed(2).path), "--data", str(data), "--no-html", "--output", str(tmp_path)]
    assert run(["diagnose", *arguments]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert run(["diagnose", "--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--data", "--output", "--documents", "--max-tokens", "--attention-positions", "--no-html"):
        assert option in said


def test_a_model_of_many_heads_and_layers_is_no_trouble(tmp_path: Path, data: Path) -> None:
    model = checkpoint(seed=1, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    report = diagnose(EngineOptions(model_dir=str(model.path)), [data], Plan(most_tokens=12))
    assert report.metric("head_cosine").values == [None] * 3  # one head has nobody to be compared with

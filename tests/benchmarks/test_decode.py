"""`loopserve bench` on tiny random models: what it compares, counts and writes."""

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.command import main
from benchmarks.decode import Plan, Report, measure, modes_of
from benchmarks.tables import markdown
from engine import rank_loading
from engine.errors import ModelError, OptionError
from engine.options import EngineOptions
from tests.engine.harness import checkpoint
from tests.make_checkpoint import make_checkpoint, random_config

PLAN = Plan(batches=(1, 3), contexts=(9,), tokens=4, rounds=2)


def report_of(directory: Path, plan: Plan = PLAN, **options: object) -> Report:
    return measure(EngineOptions(model_dir=str(directory), **options), plan)  # type: ignore[arg-type]


@pytest.mark.parametrize("loops", [2, 3])
def test_one_pass_per_token_against_one_per_loop_and_one_loop(tmp_path: Path, loops: int) -> None:
    make_checkpoint(tmp_path, random_config(plt_num_loops=loops), seed=0)
    report = report_of(tmp_path)
    assert [
        (row.batch, row.mode.num_loops, row.mode.execution, row.passes_per_token) for row in report.rows
    ] == [
        (batch, *mode)
        for batch in (1, 3)
        for mode in ((loops, "parallel", 1), (loops, "sequential", loops), (1, "parallel", 1))
    ]
    assert all(row.rounds == 2 for row in report.rows)
    for spread in [row.ms_per_token for row in report.rows] + [row.ms_to_first_tokens for row in report.rows]:
        assert 0 < spread.low <= spread.median <= spread.high
    assert {str(row.against_parallel) for row in report.rows if row.mode == report.rows[0].mode} == {
        "1.00 (1.00–1.00)"
    }
    assert report.kv_bytes_per_token_sequential == loops * report.kv_bytes_per_token
    assert report.kv_bytes_per_token_one_loop == report.kv_bytes_per_token


def test_a_model_without_loops_has_one_mode(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(plt_num_loops=1), seed=0)
    assert [row.mode for row in report_of(tmp_path).rows] == modes_of(1) * 2


def test_loops_that_need_one_another_have_one_way_to_run(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(plt_num_loops=3, plt_clp_shift=0), seed=0)
    report = report_of(tmp_path)
    assert [(row.mode.name, row.passes_per_token) for row in report.rows[:2]] == [
        ("3 loops, a pass each", 3),
        ("one loop", 1),
    ]
    assert "both executions are the same" in markdown(report)


def test_a_cache_per_loop_is_listed_once() -> None:
    model = checkpoint(loop_cache="own", plt_num_loops=3, plt_clp_shift=0)
    with model.loop_cache(), mock.patch("benchmarks.decode.load_config", rank_loading.load_config):
        report = report_of(model.path)
    assert report.kv_bytes_per_token == 3 * report.kv_bytes_per_token_one_loop
    assert markdown(report).count("every loop keeps its context") == 1
    assert {row.mode.num_loops for row in report.rows} == {3, 1}


def test_weight_bytes_are_those_of_the_stored_format(tmp_path: Path) -> None:
    config = random_config(hidden_size=64, intermediate_size=128, vocab_size=320)
    make_checkpoint(tmp_path, config, seed=0)
    plan = Plan(batches=(1,), contexts=(3,), tokens=2, rounds=2)
    sizes = {
        name: report_of(tmp_path, plan, **options).weight_bytes_per_pass
        for name, options in {"float32": {}, "bfloat16": {"dtype": "bfloat16"}}.items()
    }
    # q, k, v of 4 + 2 + 2 heads of 16; the head's 320 outputs are 5 whole panels of 64
    elements = 64 * (2 * (128 + 64 + 256 + 128) + 320)
    assert sizes == {"float32": 4 * elements, "bfloat16": 2 * elements}


def test_time_limit_still_gives_two_rounds(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    plan = Plan(batches=(1,), contexts=(3,), tokens=2, rounds=50, time_limit=0.0)
    assert {row.rounds for row in report_of(tmp_path, plan).rows} == {2}


def test_command_writes_json_tables_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(tmp_path / "model", random_config(), seed=0)
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "md", "svg")}
    arguments = f"{tmp_path}/model --batch 1 --batch 2 --context 5 --tokens 2 --rounds 2"
    outputs = f"--json {files['json']} --markdown {files['md']} --picture {files['svg']}"
    main(f"{arguments} {outputs}".split())
    assert "one after another" in capsys.readouterr().out
    rows = json.loads(files["json"].read_text())["rows"]
    assert [(row["batch"], row["context"]) for row in rows] == [(1, 5)] * 3 + [(2, 5)] * 3
    assert files["md"].read_text().count("one after another") == 2
    assert "<svg" in files["svg"].read_text()


def test_markdown_states_what_was_run(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    text = markdown(report_of(tmp_path, Plan(batches=(1,), contexts=(3,), tokens=2, rounds=2)))
    assert "2 loops; dtype auto, quantization none, cache auto" in text
    assert "GB/s" in text


@pytest.mark.parametrize("option", ["--dtype", "--quantization", "--kv-cache-dtype"])
def test_wrong_values_are_refused(tmp_path: Path, option: str) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    with pytest.raises(OptionError, match=f"{option} must be one of"):
        main([str(tmp_path), option, "magic"])


def test_a_context_beyond_the_model_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(max_position_embeddings=64), seed=0)
    with pytest.raises(ModelError, match="max_position_embeddings"):
        report_of(tmp_path, Plan(batches=(1,), contexts=(64,), tokens=2, rounds=2))


def test_loopserve_bench_is_a_command() -> None:
    code = "from server.cli import main; import sys; sys.argv = ['loopserve', 'bench', '--help']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--picture" in done.stdout

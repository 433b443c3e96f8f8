"""`loopserve bench --url`: turns, numbers and tables."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.http_load import Load, Target
from benchmarks.server_tables import server_cells
from benchmarks.servers import ServerPlan, measure_servers
from server.cli import run
from tests.benchmarks.scripted_server import Script, answer, scripted_server
from tests.make_checkpoint import make_checkpoint, random_config
from tests.server.live import live_server

LOAD = Load(streams=2, prompt_tokens=7, max_tokens=4)


def test_servers_take_turns_and_the_slower_one_is_slower() -> None:
    turns: list[str] = []

    @contextmanager
    def turn(target: Target) -> Iterator[None]:
        turns.append(f"{target.name} begins")
        yield
        turns.append(f"{target.name} ends")

    with (
        scripted_server(Script(answer(4), pause=0.02)) as fast,
        scripted_server(Script(answer(4), pause=0.06)) as slow,
    ):
        targets = [Target("fast", fast), Target("slow", slow)]
        report = measure_servers(targets, ServerPlan((LOAD,), rounds=2), turn)
    order = ["fast", "slow", "fast", "slow", "slow", "fast"]  # warm-up, first round, second round
    assert turns == [f"{name} {event}" for name in order for event in ("begins", "ends")]
    first, second = report.rows
    assert (first.target, second.target) == ("fast", "slow")
    assert (second.prompt_tokens, second.completion_tokens, second.tokens_per_event) == (7, 4, 1.0)
    for times in ("first_token_seconds", "per_token_seconds"):
        ratios = [b / a for a, b in zip(getattr(first, times), getattr(second, times), strict=True)]
        assert len(ratios) == 2
        assert all(1.5 < ratio < 4.5 for ratio in ratios)
    assert all(a > 1.5 * b for a, b in zip(first.tokens_per_second, second.tokens_per_second, strict=True))
    assert second.gap_p50 is not None
    assert second.gap_p99 is not None
    assert 0.05 < second.gap_p50 <= second.gap_p99
    table = server_cells(report).rows
    assert [cells[0] for cells in table] == ["fast", "slow"]
    assert table[0][6] == "1.00 (1.00–1.00)"


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    with scripted_server(Script(answer(1))) as url:
        report = measure_servers([Target("it", url)], ServerPlan((Load(1, 7, 1),), rounds=2))
    (row,) = report.rows
    assert (row.per_token_seconds, row.gap_p50, row.gap_p99) == ([], None, None)
    assert server_cells(report).rows[0][7:11] == ["–"] * 4


def test_time_limit_still_gives_two_rounds() -> None:
    with scripted_server(Script(answer(2))) as url:
        report = measure_servers([Target("it", url)], ServerPlan((LOAD,), rounds=9, time_limit=0.0))
    assert len(report.rows[0].tokens_per_second) == 2


def test_two_servers_of_one_name_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="different names"):
        measure_servers([Target("a", "http://x"), Target("a", "http://y")], ServerPlan((LOAD,)))


def test_the_command_measures_a_loopserve_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(tmp_path / "model", random_config(), seed=0)
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "md")}
    with live_server(tmp_path / "model") as server:
        command = f"bench --url={server.url} --streams 1 --streams 3 --context 9 --tokens 5 --rounds 2"
        outputs = f"--max-token-id 300 --json {files['json']} --markdown {files['md']}"
        assert run(f"{command} {outputs}".split()) == 0
    assert server.url in capsys.readouterr().out
    rows = json.loads(files["json"].read_text())["rows"]
    assert [(row["load"]["streams"], row["prompt_tokens"], row["completion_tokens"]) for row in rows] == [
        (1, 9, 5),
        (3, 9, 5),
    ]
    assert files["md"].read_text().count(server.url) == 2


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--url", "http://127.0.0.1:9", "--model", "m"]) == 2
    assert capsys.readouterr().err.startswith("loopserve: http://127.0.0.1:9")

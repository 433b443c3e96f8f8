"""The step-time benchmark on a tiny random model."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.step_time import Plan, measure
from tests.make_checkpoint import make_checkpoint, random_config


@pytest.mark.parametrize("loops", [2, 3])
def test_one_pass_per_token_against_one_per_loop(tmp_path: Path, loops: int) -> None:
    make_checkpoint(tmp_path, random_config(plt_num_loops=loops), seed=0)
    report = measure(tmp_path, Plan(batches=(1, 3), prompt=9, tokens=4, rounds=2))
    assert [(row.batch, row.execution, row.rounds, row.passes_per_token) for row in report.rows] == [
        (1, "parallel", 2, 1),
        (1, "sequential", 2, loops),
        (3, "parallel", 2, 1),
        (3, "sequential", 2, loops),
    ]
    assert all(
        0 < row.ms_per_token.low <= row.ms_per_token.median <= row.ms_per_token.high for row in report.rows
    )
    assert report.kv_bytes_per_token_sequential == loops * report.kv_bytes_per_token
    table = report.markdown().splitlines()
    assert sum(line.startswith(("| 1 | ", "| 3 | ")) for line in table) == 4
    assert any(line.startswith(f"| 3 | sequential | {loops} | ") for line in table)
    assert json.loads(json.dumps(asdict(report)))["num_loops"] == loops


def test_time_limit_still_gives_two_rounds(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    report = measure(tmp_path, Plan(batches=(1,), prompt=3, tokens=2, rounds=50, time_limit=0.0))
    assert {row.rounds for row in report.rows} == {2}

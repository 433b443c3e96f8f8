"""The GPU check goes through all its parts without a GPU, on a tiny model in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from engine.checkpoint import open_checkpoint
from engine.config import load_config
from tools.gpu_check.shape import LOOPCODER_V2, TINY, layers_that_fit, write_checkpoint

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.gpu_check", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_reports_every_variant_and_workload() -> None:
    done = run("--dry-run", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr[-2000:]
    for variant in ("R = 1 ", "R = 2, parallel", "R = 2, sequential", "R = 3, parallel"):
        for batch in (1, 2):
            assert f"| {batch} | 12 | {variant}" in done.stdout
    for workload in ("| decode |", "| prefill |"):
        assert workload in done.stdout
    assert not list((ROOT / "docs" / "results").glob("gpu-dry*"))


def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (2, "gpu-check: torch finds no GPU here; nothing was checked\n")


def test_the_random_checkpoint_is_a_valid_one_at_any_number_of_loops(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {**TINY, "num_hidden_layers": 2}, torch.device("cpu"))
    for loops in (1, 2, 3):
        config = load_config(tmp_path, {"plt_num_loops": loops})
        assert open_checkpoint(tmp_path, config).tensors


def test_layers_that_fit() -> None:
    assert layers_that_fit(LOOPCODER_V2, 80 * 10**9, 1) == 14
    few = layers_that_fit(LOOPCODER_V2, 80 * 10**9, 4)
    assert 8 <= few < 14
    assert layers_that_fit(LOOPCODER_V2, 1, 4) == 1

"""The full-size measurement goes through all its parts on a tiny model."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_tiny_model_goes_all_the_way_and_leaves_nothing(tmp_path: Path) -> None:
    directory, page = tmp_path / "work", tmp_path / "page.md"
    arguments = ["--tiny", "--directory", directory, "--page", page, "--tokens", "2", "--rounds", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.full_size", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not directory.exists()
    text = page.read_text()
    for variant in ("bfloat16", "int8", "int4"):
        assert text.count(f"| {variant} |") == 4  # three modes, and memory
    assert "A prompt of 32 tokens" in text
    assert "15 tokens at" in text

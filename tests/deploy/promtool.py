"""Runs the programs that `make prometheus` has put under build/prometheus."""

import subprocess
from pathlib import Path

BIN = Path("build/prometheus/bin").resolve()
PROMETHEUS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The finished process; its output is in stdout, complaints included."""
    return subprocess.run(
        [BIN / "promtool", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )

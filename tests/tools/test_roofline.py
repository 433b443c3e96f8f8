"""The committed roofline page is that of the arithmetic, which `tests/planning` tests."""

import subprocess
import sys
from pathlib import Path


def test_the_committed_page_is_what_the_script_writes() -> None:
    code = "from tools.roofline.page import page; print(page(), end='')"
    root = Path(__file__).parents[2]
    written = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert written.stdout == (root / "docs" / "results" / "roofline.md").read_text()

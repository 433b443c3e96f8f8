"""Compiled kernels are kept apart by the state of all sources."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.compiled_cache import PACKAGE, USER_CACHE, cache_directory


def test_any_changed_source_gives_another_directory(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text("a = 1\n")
    (tmp_path / "outer.py").write_text("b = 1\n")
    before = cache_directory(tmp_path, None)
    assert cache_directory(tmp_path, None) == before
    (tmp_path / "inner.py").write_text("a = 2\n")
    assert cache_directory(tmp_path, None) != before
    assert before.is_relative_to(tmp_path)
    assert cache_directory(tmp_path, "/elsewhere").parent == Path("/elsewhere")


def test_sources_that_may_not_be_written_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cache_directory(tmp_path, None).is_relative_to(USER_CACHE.expanduser())


@pytest.mark.parametrize("is_chosen", [False, True])
def test_numba_writes_there(tmp_path: Path, is_chosen: bool) -> None:
    chosen = str(tmp_path) if is_chosen else None
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", "from kernels.exponential import exp; print(exp._cache.cache_path)"],
        env={**environment, "NUMBA_CACHE_DIR": chosen} if chosen else environment,
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(cache_directory(PACKAGE, chosen))

"""Compiled kernels are kept apart by the state of all sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.compiled_cache import PACKAGE, USER_CACHE, cache_directories, has_room


def cache_directory(package: Path, chosen: str | None) -> Path:
    return next(cache_directories(package, chosen))


def test_any_changed_source_gives_another_directory(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text("a = 1\n")
    (tmp_path / "outer.py").write_text("b = 1\n")
    before = cache_directory(tmp_path, None)
    assert cache_directory(tmp_path, None) == before
    (tmp_path / "inner.py").write_text("a = 2\n")
    assert cache_directory(tmp_path, None) != before
    assert before.is_relative_to(tmp_path)
    assert [place.parent for place in cache_directories(tmp_path, "/elsewhere")] == [Path("/elsewhere")]


def test_the_users_cache_comes_after_the_sources(tmp_path: Path) -> None:
    beside, users = cache_directories(tmp_path, None)
    assert beside.is_relative_to(tmp_path)
    assert users.is_relative_to(os.path.expanduser(USER_CACHE))


def test_places_that_can_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert not has_room(tmp_path / "file" / "below")  # as a read-only place: mkdir fails
    assert has_room(tmp_path / "new" / "deep")

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    assert not has_room(tmp_path / "new" / "deep")
    (tmp_path / "new" / "deep" / "kernel.nbi").touch()
    assert has_room(tmp_path / "new" / "deep")  # compiled already


def test_with_no_place_left_kernels_are_kept_as_long_as_the_process(tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('error', ResourceWarning)\n"
        "from kernels.exponential import exp; print(exp._cache.cache_path); print(len(exp.signatures))"
    )
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "below"), "TMPDIR": str(tmp_path)},
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    used = Path(done.stdout.splitlines()[0])
    assert used.is_relative_to(tmp_path)
    assert not used.exists()
    assert "kernels are compiled at every start" in done.stderr
    assert "NUMBA_CACHE_DIR" in done.stderr


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

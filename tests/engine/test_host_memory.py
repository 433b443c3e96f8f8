"""What is left is the least of the machine's, the control groups' and the process's own."""

import resource
from pathlib import Path

import psutil
import pytest

from engine import host_memory
from engine.host_memory import _left_in_groups, available_memory


def _group(directory: Path, limit: str, usage: int, inactive: int, old: bool = False) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ("memory.limit_in_bytes" if old else "memory.max")).write_text(limit + "\n")
    (directory / ("memory.usage_in_bytes" if old else "memory.current")).write_text(f"{usage}\n")
    name = "total_inactive_file" if old else "inactive_file"
    (directory / "memory.stat").write_text(f"anon 5\n{name} {inactive}\n")


def test_every_group_above_counts(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/services/mine\n")
    _group(tmp_path / "root" / "services" / "mine", "max", 0, 0)
    _group(tmp_path / "root" / "services", "1000", 700, 100)
    assert list(_left_in_groups(tmp_path / "membership", tmp_path / "root")) == [400]
    _group(tmp_path / "root" / "services" / "mine", "500", 450, 0)
    assert list(_left_in_groups(tmp_path / "membership", tmp_path / "root")) == [50, 400]


def test_in_a_container_the_path_may_be_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("4:cpu:/x\n3:memory,hugetlb:/docker/0123\n0::/\n")
    _group(tmp_path / "root" / "memory", "1000", 600, 10, old=True)
    assert list(_left_in_groups(tmp_path / "membership", tmp_path / "root")) == [410]


def test_without_control_groups_nothing_is_known_of_them(tmp_path: Path) -> None:
    assert list(_left_in_groups(tmp_path / "missing", tmp_path)) == []
    (tmp_path / "membership").write_text("0::/../../escape\n")
    assert list(_left_in_groups(tmp_path / "membership", tmp_path / "root")) == []


def test_the_least_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_memory() <= psutil.virtual_memory().total
    monkeypatch.setattr(host_memory, "_left_in_groups", lambda: iter([123_456]))
    assert available_memory() == 123_456
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (taken + 1000, taken + 1000))
    assert available_memory() <= 1000
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1, 1))
    assert available_memory() == 0


def test_without_any_limit_it_is_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose groups are all unlimited, or in a container that doesn't see them."""
    monkeypatch.setattr(host_memory, "_left_in_groups", lambda: iter([]))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert 0 < available_memory() <= psutil.virtual_memory().total

"""The conformance harness itself: what it makes of good, bad and missing scripts; the clients are in tests/clients."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.compatibility import catalogue, running
from tools.compatibility.catalogue import CHECKS, CLIENTS, FEATURES, Client
from tools.compatibility.page import INTRODUCTION, MEANINGS, page
from tools.compatibility.running import Outcome, Row, run_client
from tools.compatibility.servers import CompatibilityError, Served, new_key

PACKAGE = Path(running.__file__).parent
SERVERS = [Served("http://127.0.0.1:1", "key")]
SCRIPT = """
from checking import feature, main

@feature("chat")
def first(): pass

@feature("chat")
def second(): raise ValueError("a | <b>")

@feature("stream")
def third(): pass

@feature("stop")
def fourth(): raise SystemExit(3)

@feature("n")
def fifth(): pass

main("pip")
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client whose script and environment are made up."""
    (tmp_path / "made_up.py").write_text(SCRIPT)
    (tmp_path / "checking.py").write_text((CHECKS / "checking.py").read_text())
    (tmp_path / "made-up/bin").mkdir(parents=True)
    (tmp_path / "made-up/bin/python").symlink_to(sys.executable)
    (tmp_path / "made-up/installed").touch()
    monkeypatch.setattr(catalogue, "CHECKS", tmp_path)
    return Client("made-up", "Made up", "made_up.py", ("chat", "stream", "tools", "stop", "n"))


def test_no_key_looks_like_an_option_of_a_command_line() -> None:
    assert all(re.fullmatch(r"sk-[0-9a-f]{32}", new_key()) for _ in range(1000))


def test_rows_of_a_script(client: Client, tmp_path: Path) -> None:
    outcome = run_client(client, tmp_path, SERVERS, tmp_path / "log")
    assert outcome.version
    assert outcome.rows == (
        Row("chat", False, "ValueError: a | <b>"),
        Row("stream", True),
        Row("tools", False, "AssertionError: the script has no check of this name"),
        Row("stop", False, "no result: the script ended with code 3"),
        Row("n", False, "no result: the script ended with code 3"),
    )


def test_a_script_that_hangs_is_ended(client: Client, tmp_path: Path) -> None:
    (tmp_path / "made_up.py").write_text("import time\ntime.sleep(60)")
    outcome = run_client(replace(client, seconds=0.5), tmp_path, SERVERS, tmp_path / "log")
    assert {row.detail for row in outcome.rows} == {"no result: not within 0.5 s"}
    assert not any(row.passed for row in outcome.rows)


def test_a_missing_environment_is_an_error_and_not_a_skip(client: Client, tmp_path: Path) -> None:
    (tmp_path / "made-up/installed").unlink()
    with pytest.raises(CompatibilityError, match=r"made-up is not installed: run .*install\.sh"):
        run_client(client, tmp_path, SERVERS, tmp_path / "log")


def test_failures_are_on_the_page() -> None:
    client = Client("one", "One", "one.py", ("chat", "stream", "images"), known=(("images", "text only"),))
    rows = (Row("chat", True), Row("stream", False, "a | <b>"), Row("images", False, "whatever"))
    outcome = Outcome(client, "1.2", rows)
    text = page([outcome])
    (line,) = [line for line in text.splitlines() if line.startswith("| One | 1.2 |")]
    cells = dict(zip(FEATURES, [cell.strip() for cell in line.split("|")[3:-1]], strict=True))
    assert {name: cell for name, cell in cells.items() if cell} == {
        "chat": "yes",
        "stream": "**no**",
        "images": "**no**",
    }
    assert "* One, stream: a \\| &lt;b>" in text
    assert "* One, images: text only" in text
    assert outcome.unexpected() == [rows[1]]


def test_the_page_in_the_repository_is_of_this_catalogue() -> None:
    text = Path("docs/compatibility.md").read_text()
    assert INTRODUCTION in text
    assert MEANINGS in text
    for client in CLIENTS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {client.title} |")]
        cells = [cell.strip() for cell in line.split("|")[3:-1]]
        shown = {name: cell for name, cell in zip(FEATURES, cells, strict=True) if cell}
        known = {name for name, _ in client.known}
        assert shown == {name: "**no**" if name in known else "yes" for name in client.features}


def test_a_known_failure_that_passes_is_unexpected() -> None:
    client = Client("one", "One", "one.py", ("images",), known=(("images", "text only"),))
    assert Outcome(client, "", (Row("images", True),)).unexpected() == [Row("images", True)]


def test_the_catalogue_fits_the_files() -> None:
    listed = {
        path.stem if path.suffix == ".txt" else path.name for path in (PACKAGE / "requirements").iterdir()
    }
    assert listed == {client.name for client in CLIENTS}
    for client in CLIENTS:
        assert (CHECKS / client.script).is_file()
        assert set(client.features) <= set(FEATURES)
        assert {feature for feature, _ in client.known} <= set(client.features)


def test_make_installs_what_the_tests_run() -> None:
    listed = re.search(r"LIGHT_CLIENTS := ((?:.*\\\n)*.*)", Path("Makefile").read_text())
    assert listed
    assert listed[1].replace("\\", " ").split() == [client.name for client in CLIENTS if not client.heavy]


def test_every_package_is_pinned() -> None:
    for path in (PACKAGE / "requirements").glob("*.txt"):
        lines = path.read_text().splitlines()
        assert all("==" in line for line in lines), path
        assert not any(line.startswith("nvidia") for line in lines), path


def test_the_installer_is_valid_shell() -> None:
    assert subprocess.run(["sh", "-n", PACKAGE / "install.sh"], check=False).returncode == 0

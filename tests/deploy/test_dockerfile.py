"""The Dockerfile: linted, and agreeing with pyproject.toml and .dockerignore about what belongs into the image."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.deploy.documents import ROOT

DOCKERFILE = ROOT / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTEXT = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}


def lint(path: Path) -> "subprocess.CompletedProcess[str]":
    command = (Path(sys.executable).parent / "hadolint", "--config", ROOT / ".hadolint.yaml", path)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_finds_nothing() -> None:
    result = lint(DOCKERFILE)
    assert result.returncode == 0, result.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text(
        DOCKERFILE.read_text().replace(
            'ENTRYPOINT ["tini", "--", "loopserve", "serve"]', "ENTRYPOINT loopserve"
        )
    )
    assert "DL3025" in lint(broken).stdout


def copied() -> set[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return {word for line in lines for word in line.split()[:-1]}


def test_all_packages_are_in_the_image() -> None:
    """The wheel can't be built from half of the packages that pyproject.toml names."""
    packages = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert packages <= copied()


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    assert copied() == CONTEXT
    assert all((ROOT / path).exists() for path in CONTEXT)


def test_nothing_but_pyproject_says_which_torch() -> None:
    assert not re.search(r"torch[=<>~]", DOCKERFILE.read_text())

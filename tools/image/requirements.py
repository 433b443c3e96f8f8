"""Splits the dependencies of pyproject.toml into what the Dockerfile installs one layer after another.

Writes `torch.txt` (the pin; hundreds of megabytes that rarely change), `cpu.txt` (everything else) and `cuda.txt`
(everything else with the extras of a GPU). Runs in the base image, so it is one file and needs nothing but Python.
"""

import re
import sys
import tomllib
from pathlib import Path

GPU_EXTRAS = ("cuda", "quantization")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def split(project: dict[str, object]) -> dict[str, list[str]]:
    """The lines of each file.

    Args:
        project: the table `project` of pyproject.toml.

    Raises:
        ValueError: torch isn't pinned to one version, so layers could disagree about it.
    """
    dependencies = _strings(project["dependencies"])
    torch = [line for line in dependencies if _name(line) == "torch"]
    if len(torch) != 1 or not re.fullmatch(r"torch==[0-9.]+", torch[0]):
        raise ValueError(f"pyproject.toml must pin torch once, as torch==X.Y.Z, and has {torch}")
    others = [line for line in dependencies if line not in torch]
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    gpu = [line for extra in GPU_EXTRAS for line in _strings(extras[extra])]
    return {"torch.txt": torch, "cpu.txt": others, "cuda.txt": others + gpu}


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    if found is None:
        raise ValueError(f"{requirement!r} is no requirement")
    return found[0].lower()


def _strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list of requirements")
    return [str(line) for line in value]


def main(pyproject: Path, directory: Path) -> None:
    """Write the files into `directory`."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    for name, lines in split(project).items():
        (directory / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

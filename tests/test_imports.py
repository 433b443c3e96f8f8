"""The import rule of docs/architecture.md: server → engine → scheduler, engine → kernels, and who may load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "server": {"server", "planning", "engine"},
    "planning": {"planning", "engine", "scheduler"},
    "diagnostics": {"diagnostics", "engine", "scheduler"},
    "engine": {"engine", "scheduler", "kernels"},
    "kernels": {"kernels"},
    "scheduler": {"scheduler"},
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported_names(tree: ast.AST) -> set[str]:
    """Top-level packages that a module imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way_and_stand_at_the_top(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text())
    names = imported_names(tree)
    assert names & set(MAY_IMPORT) <= MAY_IMPORT[package]
    if package in ("scheduler", "server", "planning"):
        assert "torch" not in names
    for function in (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ):
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function))


@pytest.mark.parametrize(
    "module",
    [
        "server.app",
        "server.cli",
        "server.bootstrap",
        "engine.process_host",
        "scheduler.scheduler",
        "planning.command",
    ],
)
def test_the_api_process_never_loads_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

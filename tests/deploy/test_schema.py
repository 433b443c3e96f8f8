"""The dashboards hold to Grafana's own types (the package of Grafana 10.4), by TypeScript's compiler."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.grafana import dashboards, panels

TYPES = Path(__file__).resolve().parents[2] / "tools" / "dashboards" / "schema" / "board.ts"
MODULES = Path("build/grafana-schema/node_modules").resolve()
STRICT = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext")


def complaints(directory: Path, boards: list[dict[str, Any]]) -> str:
    """What the compiler says to dashboards that are declared to be of Grafana's type."""
    (directory / "node_modules").symlink_to(MODULES)
    (directory / "board.ts").write_text(TYPES.read_text())
    declared = [f"export const board{i}: Board = {json.dumps(board)};" for i, board in enumerate(boards)]
    (directory / "check.ts").write_text("\n".join(['import type { Board } from "./board";', *declared]))
    compiler = ["node", MODULES / ".bin" / "tsc", *STRICT, "--moduleResolution", "bundler", "check.ts"]
    done = subprocess.run(compiler, cwd=directory, capture_output=True, text=True, timeout=200, check=False)
    assert done.stderr == ""
    return done.stdout


def test_the_dashboards_are_of_grafanas_type(tmp_path: Path) -> None:
    assert complaints(tmp_path, list(dashboards().values())) == ""


def misspell_a_key(board: dict[str, Any]) -> None:
    board["refesh"] = board.pop("refresh")


def invent_a_kind_of_panel(board: dict[str, Any]) -> None:
    panels(board)[0]["type"] = "tachometer"


def draw_in_an_unknown_style(board: dict[str, Any]) -> None:
    lines = next(panel for panel in panels(board) if panel["type"] == "timeseries")
    lines["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "wiggle"


def ask_for_nothing(board: dict[str, Any]) -> None:
    del panels(board)[0]["targets"][0]["expr"]


@pytest.mark.parametrize(
    "spoil", [misspell_a_key, invent_a_kind_of_panel, draw_in_an_unknown_style, ask_for_nothing]
)
def test_the_compiler_would_notice(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    board = copy.deepcopy(dashboards()["loopserve-service"])
    spoil(board)
    assert "error TS" in complaints(tmp_path, [board])

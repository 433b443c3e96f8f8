"""Reads the committed dashboards, and fills in their variables as Grafana does."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"


@dataclass(frozen=True)
class Target:
    """One query of one panel."""

    dashboard: str
    panel: str
    letter: str
    expr: str

    def __str__(self) -> str:
        return f"{self.dashboard}-{self.panel}-{self.letter}".replace(" ", "_")


@cache
def dashboards() -> dict[str, Any]:
    """The committed dashboards by file name."""
    return {
        path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))
    }


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Without the rows that are only titles."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> list[Target]:
    """Every query of every dashboard."""
    return [
        Target(name, panel["title"], target["refId"], target["expr"])
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def filled_in(expr: str, lists: dict[str, list[str]], scrape_seconds: int, step: int, seconds: int) -> str:
    """An expression with its variables replaced.

    Args:
        lists: the chosen values of each variable with several; all, if "All" is chosen.
        scrape_seconds: the data source's `timeInterval`.
        step: seconds between points.
        seconds: the range shown.
    """
    window = max(step + scrape_seconds, 4 * scrape_seconds)
    for name, value in {"__rate_interval": window, "__interval": step, "__range": seconds}.items():
        expr = expr.replace(f"${name}", f"{value}s")
    for name, values in lists.items():
        escaped = [value.replace(".", r"\\.") for value in values]
        expr = expr.replace(f"${name}", f"({'|'.join(escaped)})")
    assert "$" not in expr, "a variable that nothing fills in"
    return expr

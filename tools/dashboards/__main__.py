"""Writes deploy/grafana/dashboards/*.json.

python -m tools.dashboards
"""

from pathlib import Path

from tools.dashboards.grafana import to_json
from tools.dashboards.loops import LOOPS
from tools.dashboards.service import SERVICE

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
DASHBOARDS = (SERVICE, LOOPS)


def files() -> dict[Path, str]:
    """Path and text of every dashboard's file."""
    return {DIRECTORY / f"{dashboard.uid}.json": to_json(dashboard) for dashboard in DASHBOARDS}


def main() -> None:
    """Write the files."""
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

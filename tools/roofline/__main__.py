"""Write docs/results/roofline.md and its plots.

python -m tools.roofline
"""

from pathlib import Path

from tools.roofline.page import page
from tools.roofline.plots import write_plots

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def main() -> None:
    plots = RESULTS / "roofline"
    plots.mkdir(parents=True, exist_ok=True)
    write_plots(plots)
    (RESULTS / "roofline.md").write_text(page())


if __name__ == "__main__":
    main()

"""python -m tools.scaling_page"""

from pathlib import Path

from tools.scaling_page.page import page

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"

if __name__ == "__main__":
    PAGE.write_text(page())

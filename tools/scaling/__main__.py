"""python -m tools.scaling ray-serve|router [--page FILE]"""

import argparse
import asyncio
import importlib
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description="Two replicas, for real.")
    parser.add_argument("front", choices=["ray-serve", "router"])
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    # Each has an environment of its own.
    module = importlib.import_module(f"tools.scaling.{given.front.replace('-', '_')}")
    page: str = asyncio.run(module.run())
    print(page)
    if given.page is not None:
        given.page.write_text(page)
    return 1 if "**NO**" in page else 0


if __name__ == "__main__":
    raise SystemExit(main())

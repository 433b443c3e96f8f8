"""Takes the README's picture of the page: the demo model at work, seen by a headless Chromium.

python -m tools.browser.screenshot docs/page.png [--scheme dark] [--width 1280]
"""

import argparse
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
from playwright.sync_api import Browser, expect

from server.settings import DEMO_MODEL
from tests.server.live import live_server
from tools.browser.chromium import chromium

Scheme = Literal["light", "dark"]

OPTIONS = (
    *("--kv-cache-memory", "16MiB", "--loop-metrics-sample", "0.1", "--calibration-time", "20"),
    *("--threads", "1"),  # the browser and the clients want a core, too
)
LOAD_SECONDS = 25
CLIENTS = 3
PROMPTS = (
    "def read_config(path):\n    ",
    "class Queue:\n    def __init__(self):\n        ",
    "import os\n\n\ndef main():\n    ",
)
PROMPT = 'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n    '


def main() -> None:
    """Start a server, put it under a little load, and take the picture."""
    parser = argparse.ArgumentParser(description="Take a picture of the page.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--width", type=int, default=1280)
    options = parser.parse_args()
    with (
        live_server(DEMO_MODEL, *OPTIONS) as server,
        chromium() as browser,
        load(server.url),
    ):
        take(browser, server.url, options.picture, options.scheme, options.width)


def take(browser: Browser, url: str, picture: Path, scheme: Scheme, width: int) -> None:
    """Complete a prompt, look at a token, wait until the charts have something to show."""
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(url)
        page.locator("#prompt").fill(PROMPT)
        page.locator("#max-tokens").fill("72")
        page.locator("#temperature").fill("0")
        page.locator("#send").click()
        expect(page.locator("#usage")).to_contain_text("ended", timeout=60_000)
        changed = page.locator(".token[data-decided], .token[data-level='5']")
        (changed if changed.count() else page.locator(".token")).nth(3).hover()
        page.wait_for_timeout(1000 * LOAD_SECONDS)
        page.mouse.move(0, 0)
        page.screenshot(path=picture, full_page=True)


@contextmanager
def load(url: str) -> Iterator[None]:
    """A few clients that ask for one completion after another."""
    over = threading.Event()
    threads = [threading.Thread(target=_ask, args=(url, over, seed)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask(url: str, over: threading.Event, seed: int) -> None:
    with httpx.Client(timeout=60) as client:
        for turn in itertools.count(seed):
            body = {
                "prompt": PROMPTS[turn % len(PROMPTS)],
                "max_tokens": 200 + 150 * (turn % 4),
                "seed": turn,
            }
            client.post(f"{url}/v1/completions", json=body).raise_for_status()
            if over.wait(0.2 + 0.5 * (turn % 3)):
                return


if __name__ == "__main__":
    main()

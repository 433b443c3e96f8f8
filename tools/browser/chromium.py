"""A headless Chromium from the system, driven by Playwright; Playwright's own downloads are not used."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # tests may run as root, where Chromium's sandbox refuses to start; it only sees our own page
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str:
    """The browser's path: `$CHROMIUM`, or the first one on the PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        if name and (found := shutil.which(name)):
            return found
    raise FileNotFoundError("no Chromium found; run tools/browser/install.sh, or set CHROMIUM to its path")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser. Meanwhile no other asyncio loop can run in this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()

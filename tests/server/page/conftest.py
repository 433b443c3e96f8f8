"""One browser and one server of the demo model for all tests of the page; a fresh profile and a watch for each test."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.server.live import LiveServer, live_server
from tools.browser.chromium import chromium

DEMO = Path(__file__).resolve().parents[3] / "models" / "demo"
OPTIONS = ("--kv-cache-memory", "64MiB", "--no-self-check", "--calibration-time", "2")
SECONDS = 20_000.0
"""How long anything on the page may take, in Playwright's milliseconds."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS)
    with chromium() as running:
        yield running


@pytest.fixture(scope="package")
def server() -> Iterator[LiveServer]:
    with live_server(DEMO, *OPTIONS) as running:
        yield running


@dataclass
class Watched:
    """A page that must neither complain in the console nor ask another server for anything.

    Attributes:
        expected: patterns of console messages that a test provokes.
    """

    page: Page
    url: str
    expected: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(SECONDS)
        self.page.on("console", lambda message: self._on_console(message.type, message.text))
        self.page.on("pageerror", lambda error: self.console.append(f"exception: {error}"))
        self.page.on("request", lambda request: self._on_request(request.url))

    def _on_console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.console.append(text)

    def _on_request(self, url: str) -> None:
        if not url.startswith(self.url + "/"):
            self.elsewhere.append(url)

    def open(self, path: str = "/", *, ready: bool = True) -> None:
        self.page.goto(self.url + path)
        if ready:
            expect(self.at("#state")).to_have_text("ready")
            expect(self.at("#model")).to_contain_text("loops")

    def at(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def choose(self, mode: str) -> None:
        self.page.get_by_role("radio", name=mode).check(force=True)

    def set(self, **fields: object) -> None:
        """Fill settings by their ids, with underscores for hyphens."""
        for name, value in fields.items():
            self.at(f"#{name.replace('_', '-')}").fill(str(value))

    def send(self, text: str) -> None:
        """Send it and wait until the answer has ended."""
        self.begin(text)
        self.wait_end()

    def begin(self, text: str) -> None:
        self.at("#prompt").fill(text)
        self.at("#send").click()

    def wait_end(self) -> None:
        expect(self.at("#output")).to_have_attribute("aria-busy", "false")

    def usage(self) -> str:
        return self.at("#usage").inner_text()

    def output(self) -> str:
        """Text of the prompt and the answer, without the token that ended it."""
        script = """element => {
          const copy = element.cloneNode(true);
          copy.querySelector("[data-end]")?.remove();
          return copy.textContent;
        }"""
        return str(self.at("#output").evaluate(script))

    def run(self, module: str, body: str, argument: Any = None) -> Any:
        """Run JavaScript with one of the page's modules as `it` and `argument`."""
        script = f"async argument => {{ const it = await import('./page/{module}'); {body} }}"
        return self.page.evaluate(script, argument)

    def check(self) -> None:
        unexpected = [text for text in self.console if not any(re.search(one, text) for one in self.expected)]
        assert unexpected == []
        assert self.elsewhere == []


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """A page in a fresh profile, which is checked at the end; `options` are Playwright's of a context."""
    with browser.new_context(**options) as context:
        page = Watched(context.new_page(), url)
        yield page
        page.check()


@pytest.fixture
def page(browser: Browser, server: LiveServer) -> Iterator[Watched]:
    """The page of the demo model, ready."""
    with watched(browser, server.url) as opened:
        opened.open()
        yield opened

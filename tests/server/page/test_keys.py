"""A server with API keys: the page asks, says when a key is wrong, and keeps it in the tab only."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.server.live import LiveServer, live_server
from tests.server.page.conftest import DEMO, OPTIONS, Watched, watched

KEY = "right-schlüssel"


@pytest.fixture(scope="module")
def guarded() -> Iterator[LiveServer]:
    with live_server(DEMO, *OPTIONS, "--api-key", KEY) as running:
        yield running


@pytest.fixture
def page(browser: Browser, guarded: LiveServer) -> Iterator[Watched]:
    with watched(browser, guarded.url) as opened:
        opened.expected.append("401")
        opened.open(ready=False)
        yield opened


def give(page: Watched, key: str) -> None:
    page.at("#key").fill(key)
    page.page.get_by_role("button", name="Use key").click()


def test_it_asks_and_then_works(page: Watched) -> None:
    dialog = page.page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    expect(page.at("#key")).to_be_focused()
    assert page.at("#key").get_attribute("type") == "password"
    give(page, "wrong")
    expect(page.at("#key-problem")).to_contain_text("API key")
    expect(dialog).to_be_visible()
    give(page, KEY)
    expect(dialog).to_be_hidden()
    expect(page.at("#state")).to_have_text("ready")
    page.set(max_tokens=4)
    page.send("x = ")
    assert "4 tokens" in page.usage()


def test_an_empty_key_is_not_tried(page: Watched) -> None:
    give(page, "  ")
    expect(page.at("#key-problem")).to_have_text("Type a key.")


def test_it_stays_in_the_tab(page: Watched, browser: Browser, guarded: LiveServer) -> None:
    give(page, KEY)
    expect(page.at("#state")).to_have_text("ready")
    stored = page.page.evaluate(
        "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    )
    assert stored == [[KEY], [], ""]
    assert KEY not in page.page.url
    page.page.reload()
    expect(page.at("#state")).to_have_text("ready")
    with watched(browser, guarded.url) as other:
        other.expected.append("401")
        other.open(ready=False)
        expect(other.page.get_by_role("dialog")).to_be_visible()


def test_forgetting_it(page: Watched) -> None:
    give(page, KEY)
    expect(page.at("#state")).to_have_text("ready")
    page.page.get_by_role("button", name="API key").click()
    page.page.get_by_role("button", name="Forget").click()
    expect(page.at("#state")).to_have_text("needs a key")
    assert page.page.evaluate("sessionStorage.length") == 0
    expect(page.page.get_by_role("dialog")).to_be_hidden()


def test_whoever_declines_is_not_asked_by_every_poll(page: Watched) -> None:
    expect(page.page.get_by_role("dialog")).to_be_visible()
    page.page.keyboard.press("Escape")
    expect(page.page.get_by_role("dialog")).to_be_hidden()
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url))
    page.page.wait_for_timeout(2500)
    assert asked == [], "a 401 a second would look like an attack"
    expect(page.page.get_by_role("dialog")).to_be_hidden()
    page.set(max_tokens=4)
    page.send("x = ")
    expect(page.at("#problem")).to_contain_text("API key")
    page.page.get_by_role("button", name="API key").click()
    expect(page.page.get_by_role("dialog")).to_be_visible()

"""The per-token view: what it says is what the API says, by mouse and by keyboard."""

import math
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.server.live import LiveServer
from tests.server.page.conftest import Watched

PROMPT = "def add(a, b):\n    return"


def answered(server: LiveServer, **fields: Any) -> dict[str, Any]:
    body = {
        "prompt": PROMPT,
        "max_tokens": 20,
        "temperature": 0,
        "logprobs": 0,
        "loop_logprobs": True,
        **fields,
    }
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status().json()
    choice: dict[str, Any] = answer["choices"][0]
    return choice


@pytest.fixture
def shown(page: Watched) -> Watched:
    page.set(max_tokens=20, temperature=0)
    page.send(PROMPT)
    return page


def percent(page: Watched, share: float) -> str:
    return str(page.run("format.js", "return it.percent(argument);", share))


def test_every_token_shows_what_each_loop_gave_it(shown: Watched, server: LiveServer) -> None:
    choice = answered(server)
    tokens = shown.at(".token")
    assert tokens.all_text_contents() == choice["logprobs"]["tokens"]
    for index in (0, 7, 19):
        tokens.nth(index).hover()
        rows = shown.at("#inspector tbody tr")
        assert rows.count() == 2
        for loop in (0, 1):
            expect(rows.nth(loop).locator("th")).to_have_text(f"Loop {loop}")
            wanted = percent(shown, math.exp(choice["loop_logprobs"][index][loop]))
            expect(rows.nth(loop).locator(".number")).to_have_text(wanted)
            top = choice["loop_tokens"][index][loop]
            expect(rows.nth(loop).locator("code")).to_have_text(top.replace(" ", "␣").replace("\n", "↵"))
    marked = shown.page.eval_on_selector_all(".token", "all => all.map(one => 'decided' in one.dataset)")
    assert marked == [tops[-1] != tops[-2] for tops in choice["loop_tokens"]]


def test_the_more_the_last_loop_changed_the_stronger_the_colour(shown: Watched, server: LiveServer) -> None:
    changes = [last - before for before, last in answered(server)["loop_logprobs"]]
    levels = [
        int(level or 0)
        for level in shown.page.eval_on_selector_all(".token", "all => all.map(one => one.dataset.level)")
    ]
    lowered = shown.page.eval_on_selector_all(".token", "all => all.map(one => 'lowered' in one.dataset)")
    assert lowered == [change < 0 for change in changes]
    assert max(levels) > 0
    by_change = sorted(zip([abs(change) for change in changes], levels, strict=True))
    assert [level for _, level in by_change] == sorted(levels)


def test_it_is_one_stop_of_the_tab_key_and_arrows_within(shown: Watched) -> None:
    keyboard, tokens = shown.page.keyboard, shown.at(".token")
    shown.at("#output").focus()
    keyboard.press("Tab")
    expect(tokens.nth(0)).to_be_focused()
    keyboard.press("ArrowRight")
    keyboard.press("ArrowRight")
    expect(tokens.nth(2)).to_be_focused()
    expect(tokens.nth(2)).to_have_attribute("aria-selected", "true")
    expect(shown.at("#inspector")).to_contain_text("Token 3")
    keyboard.press("ArrowLeft")
    expect(tokens.nth(1)).to_be_focused()
    keyboard.press("End")
    expect(tokens.last).to_be_focused()
    keyboard.press("ArrowRight")
    expect(tokens.last).to_be_focused()
    keyboard.press("Home")
    expect(tokens.nth(0)).to_be_focused()
    keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.closest('[role=listbox]')") is None
    assert shown.at(".token[tabindex='0']").count() == 1


def test_one_loop_has_nothing_to_compare_with(page: Watched) -> None:
    page.at("#loops").fill("1")
    page.set(max_tokens=3, temperature=0)
    page.send(PROMPT)
    page.at(".token").nth(0).hover()
    expect(page.at("#inspector")).to_contain_text("one loop: nothing to compare with")
    assert page.at("#inspector tbody tr").count() == 1
    assert page.at(".token[data-level]").count() == 0


@pytest.mark.parametrize(
    ("logprobs", "words"),
    [
        ([-3.0, -3.0 + math.log(20)], "20 times as likely"),
        ([-1.0, -1.0 - math.log(5)], "5 times as unlikely"),
        ([-1.0, -1.01], "left it as it was"),
        ([-9999.0, -0.1], "over 1,000 times as likely"),
        ([-2.0, -1.5, -1.0], "1.65 times as likely"),
    ],
)
def test_the_verdict_is_about_the_last_loop(page: Watched, logprobs: list[float], words: str) -> None:
    body = """
      const element = document.createElement("div");
      const lens = new it.Lens(element);
      document.body.append(lens.element);
      lens.add({ text: "a", logprobs: argument, tops: null });
      lens.element.firstChild.focus();
      return element.textContent;
    """
    assert words in page.run("lens.js", body, logprobs)

"""For everybody: names, keyboard, contrast, narrow screens, both colour schemes, less motion."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.server.live import LiveServer
from tests.server.page.conftest import Watched, watched

NARROW = {"width": 360, "height": 740}
CONTROLS = {"button", "textbox", "slider", "checkbox", "radio", "spinbutton", "combobox", "link", "option", "listbox",
            "radiogroup", "dialog", "region", "img", "image", "table"}  # fmt: skip

CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, i) => value * a + below[i] * (1 - a));
  const behind = (element) => {
    if (element === null) return [255, 255, 255];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = (rgb) => rgb.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const out = [];
  const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (all.nextNode()) {
    const element = all.currentNode.parentElement;
    if (!all.currentNode.data.trim() || !element.checkVisibility() || element.closest(":disabled")) continue;
    const below = behind(element);
    const [one, other] = [light(over(rgba(getComputedStyle(element).color), below)), light(below)];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    out.push([ratio, all.currentNode.data.trim().slice(0, 30), element.className]);
  }
  return out;
}"""


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def colourful(browser: Browser, server: LiveServer, scheme: str) -> Iterator[Watched]:
    """In one scheme, with tokens, an explained token and a problem to be seen."""
    with watched(browser, server.url, color_scheme=scheme) as page:
        page.open()
        page.set(max_tokens=60, temperature=1, seed=1)
        page.send("def f():\n")
        page.at(".token").nth(3).click()
        page.set(temperature=9)
        page.at("#send").click()
        yield page


def test_text_has_contrast(colourful: Watched, scheme: str) -> None:
    seen = colourful.page.evaluate(CONTRAST)
    assert len(seen) > 60
    assert [one for one in seen if one[0] < 4.5] == []


def test_the_system_and_the_button_choose_the_scheme(
    browser: Browser, server: LiveServer, scheme: str
) -> None:
    def is_dark(page: Watched) -> bool:
        red = re.search(r"\d+", page.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert red is not None
        return int(red[0]) < 128

    with watched(browser, server.url, color_scheme=scheme) as page:
        page.open()
        assert is_dark(page) == (scheme == "dark")
        button = page.page.get_by_role("button", name="Theme")
        for name, dark in (("light", False), ("dark", True)):
            button.click()
            expect(button).to_have_text(f"Theme: {name}")
            assert is_dark(page) == dark
        page.page.reload()
        expect(button).to_have_text("Theme: dark")
        assert is_dark(page)
        button.click()
        assert is_dark(page) == (scheme == "dark")


def tree(page: Watched) -> list[dict[str, Any]]:
    """Chromium's accessibility tree."""
    session = page.page.context.new_cdp_session(page.page)
    nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
    return [node for node in nodes if not node["ignored"]]


def check_names(page: Watched) -> set[str]:
    roles = set()
    for node in tree(page):
        role = node["role"]["value"]
        roles.add(role)
        if role in CONTROLS:
            assert node.get("name", {}).get("value", "").strip() or role == "table", node
    return roles


def test_every_control_has_a_name(page: Watched) -> None:
    page.set(max_tokens=8)
    page.send("def f():\n\n\n")
    page.at(".token").nth(0).click()
    roles = check_names(page)
    assert {
        "button",
        "textbox",
        "slider",
        "checkbox",
        "radio",
        "spinbutton",
        "option",
        "listbox",
        "region",
    } <= roles
    page.choose("Chat")
    check_names(page)
    page.page.evaluate("document.getElementById('key-dialog').showModal()")
    assert "dialog" in check_names(page)


def test_headings_and_landmarks_are_in_order(page: Watched) -> None:
    levels = page.page.eval_on_selector_all(
        "h1, h2, h3", "all => all.filter(one => one.checkVisibility()).map(one => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.at("main").count() == page.at("header").count() == 1
    assert page.at("html").get_attribute("lang") == "en"
    ids = page.page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))


def test_everything_can_be_reached_and_the_focus_seen(page: Watched) -> None:
    reached = []
    for _ in range(60):
        page.page.keyboard.press("Tab")
        here = page.page.evaluate(
            """() => {
              const element = document.activeElement;
              const seen = element.matches(".modes input") ? element.nextElementSibling : element;
              const style = getComputedStyle(seen);
              const name = element.id || element.name || element.className || element.tagName;
              return [name, style.outlineStyle, style.outlineWidth];
            }"""
        )
        if here[0] == "BODY" or (reached and here[0] == reached[0]):
            break
        reached.append(here[0])
        assert here[1] != "none", here
        assert float(here[2].removesuffix("px")) >= 1.5, here
    assert reached[0] == "skip"
    for name in ("theme", "mode", "output", "prompt", "send", "clear", "loops", "max-tokens", "temperature", "top-p",
                 "seed", "lens", "pause"):  # fmt: skip
        assert name in reached


def test_the_skip_link_leads_to_the_prompt(page: Watched) -> None:
    page.page.keyboard.press("Tab")
    expect(page.at(".skip")).to_be_focused()
    page.page.keyboard.press("Enter")
    page.page.keyboard.press("Tab")
    focused = page.page.evaluate("document.activeElement.id")
    assert focused in ("prompt", "send")


@pytest.mark.parametrize("mode", ["Completion", "Chat"])
def test_a_narrow_screen_needs_no_scrolling_sideways(browser: Browser, server: LiveServer, mode: str) -> None:
    with watched(browser, server.url, viewport=NARROW) as page:
        page.open()
        page.choose(mode)
        page.set(max_tokens=40, temperature=1, seed=2)
        page.send("x" * 300 + " = '" + "y" * 300)
        if mode == "Completion":
            page.at(".token").nth(2).click()
        page.set(temperature=9)
        page.at("#send").click()
        check_width(page)
        page.page.evaluate("document.getElementById('key-dialog').showModal()")
        check_width(page)


def check_width(page: Watched) -> None:
    too_wide = """() => [...document.querySelectorAll("body *")]
      .filter((element) => element.checkVisibility() && !element.closest(".skip"))
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5)
      .map((element) => element.outerHTML.slice(0, 100))"""
    assert page.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    assert page.page.evaluate(too_wide) == []


def test_large_text_needs_no_scrolling_sideways(browser: Browser, server: LiveServer) -> None:
    """As at 200 % zoom of a 720 pixels wide window."""
    with watched(browser, server.url, viewport={"width": 360, "height": 400}, device_scale_factor=2) as page:
        page.open()
        check_width(page)


def test_whoever_wants_less_motion_gets_none(browser: Browser, server: LiveServer) -> None:
    moving = """() => [...document.querySelectorAll("*")].filter((element) => {
      const style = getComputedStyle(element);
      return style.transitionDuration.split(", ").some((one) => one !== "0s") || style.animationName !== "none";
    }).length"""
    for motion, still in (("reduce", True), ("no-preference", False)):
        with watched(browser, server.url, reduced_motion=motion) as page:
            page.open()
            assert (page.page.evaluate(moving) == 0) == still


def test_screenshots_differ_by_scheme(colourful: Watched, scheme: str, tmp_path: Path) -> None:
    shot = tmp_path / f"{scheme}.png"
    colourful.page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000


def test_touch_targets_are_large_enough(page: Watched) -> None:
    sizes = page.page.eval_on_selector_all(
        "button, input[type=number], textarea, .modes label, .check",
        """all => all.filter(one => one.checkVisibility()).map(one => {
          const { width, height } = one.getBoundingClientRect();
          return [Math.round(Math.min(width, height)), one.id || one.textContent];
        })""",
    )
    assert [one for one in sizes if one[0] < 24] == []

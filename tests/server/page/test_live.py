"""The live panels: what they show of a real server, and of series that are given to them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.server.live import LiveServer
from tests.server.page.conftest import Watched, watched

MIB = 1 << 20
KNOWN = """
loopserve_engine_up 1.0
loopserve_num_requests_running 3.0
loopserve_num_requests_waiting 2.0
loopserve_generation_tokens_total {tokens}
loopserve_prompt_tokens_total {tokens}
loopserve_decode_seconds_total{{execution="parallel"}} {parallel}
loopserve_decode_seconds_total{{execution="sequential"}} {sequential}
loopserve_decode_passes_total {passes}
loopserve_kv_cache_bytes{{group="shared",loop="0"}} 8388608.0
loopserve_kv_cache_bytes{{group="window",loop="1"}} 1048576.0
loopserve_kv_cache_bytes{{group="carry",loop="0"}} 1024.0
loopserve_kv_cache_baseline_bytes{{layout="sequential"}} 16777216.0
loopserve_kv_cache_baseline_bytes{{layout="one_loop"}} 8388608.0
loopserve_kv_cache_sequences{{layout="shared",length="max_model_len"}} 30.0
loopserve_kv_cache_sequences{{layout="sequential",length="max_model_len"}} 16.0
loopserve_live_tokens 4096.0
loopserve_rows_total{{loop="0"}} 100.0
loopserve_rows_total{{loop="1"}} 80.0
loopserve_loop_gate_sum{{loop="1"}} 5.0
loopserve_loop_gate_count{{loop="1"}} 10.0
loopserve_loop_change_sum{{loop="1"}} 2.5
loopserve_loop_change_count{{loop="1"}} 10.0
loopserve_loop_sampled_tokens_total{{loop="0"}} 10.0
loopserve_loop_sampled_tokens_total{{loop="1"}} 10.0
loopserve_loop_top_token_changes_total{{loop="1"}} 4.0
"""


def panel(page: Watched, name: str) -> Locator:
    return page.page.get_by_role("region", name=name, exact=True)


class Scrapes:
    """Answers `/metrics` instead of the server; each scrape is a second of decoding further."""

    def __init__(self, page: Watched, text: str = KNOWN) -> None:
        self.count = 0
        self._text = text
        page.page.route("**/metrics", self._answer)

    def _answer(self, route: Route) -> None:
        self.count += 1
        n = self.count
        values = {"tokens": 100 * n, "parallel": 0.4 * n, "sequential": 0.7 * n, "passes": 100 * n}
        route.fulfill(body=self._text.format(**values), content_type="text/plain")


def endless(route: Route) -> None:
    """Sends a completion on without letting the model end it."""
    route.continue_(post_data={**(route.request.post_data_json or {}), "ignore_eos": True})


def test_the_panels_fill_while_a_real_server_works(page: Watched) -> None:
    page.page.route("**/v1/completions", endless)
    page.set(max_tokens=1900, temperature=2, seed=1)
    page.begin("def f():")
    expect(panel(page, "Blocks of the cache").get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("blocks: [1-9]")
    )
    legend = panel(page, "Tokens per second").locator(".legend li")
    expect(legend.nth(0)).to_contain_text("generated")
    expect(legend.nth(0).locator("b")).not_to_have_text("–")
    expect(legend.nth(0).locator("b")).not_to_have_text("0")
    expect(panel(page, "Decode pass").locator(".headline strong")).to_have_text(re.compile(r"^\d+\.\d\d×$"))
    expect(panel(page, "Cache of live sequences").locator(".headline")).to_contain_text("tokens")
    expect(panel(page, "Latency, mean").locator(".legend b").nth(0)).to_contain_text("s")
    expect(panel(page, "Loops").locator("tbody tr")).to_have_count(2)
    page.page.keyboard.press("Escape")  # it may have ended by now
    expect(panel(page, "Sequences").locator(".legend b").nth(0)).to_have_text("0")
    lines = panel(page, "Tokens per second").locator("path.line-0")
    assert "L" in (lines.get_attribute("d") or "")


def test_decode_time_beside_the_sequential_loop(page: Watched) -> None:
    Scrapes(page)
    decode = panel(page, "Decode pass")
    expect(decode.locator(".headline")).to_contain_text("1.75×")
    expect(decode.locator(".legend b").nth(0)).to_have_text("4 ms")
    expect(decode.locator(".legend b").nth(1)).to_have_text("7 ms")
    picture = decode.get_by_role("img")
    expect(picture).to_have_attribute("aria-label", "Time of a decode pass, the last two minutes. "
                                      "Now: loops together 4 ms, one after another 7 ms.")  # fmt: skip


def test_memory_beside_both_baselines(page: Watched) -> None:
    Scrapes(page)
    memory = panel(page, "Cache of live sequences")
    expect(memory.locator(".headline")).to_have_text("9 MiB for 4,096 tokens")
    expect(memory.locator("dd b")).to_have_text(["9 MiB", "16 MiB", "8 MiB"])
    expect(memory).to_contain_text("shared 8 MiB, window of loop 1 1 MiB, carry of loop 0 1 KiB.")
    expect(memory).to_contain_text("44 % less than with a cache per loop.")
    expect(memory).to_contain_text("room for 30 sequences of full length; with a cache per loop, for 16.")
    width = "element => element.getBoundingClientRect().width"
    shared, sequential = (
        memory.locator(f".part.{kind}").evaluate(width) for kind in ("shared", "sequential")
    )
    assert shared / sequential == pytest.approx(0.5, abs=0.02)


CACHE = {
    "block_size": 16,
    "num_blocks": 12,
    "blocks_per_cell": 2,
    "states": [
        {"state": "held", "group": "shared", "loop": 0, "blocks": 5},
        {"state": "held", "group": "window", "loop": 1, "blocks": 2},
        {"state": "cached", "group": "shared", "loop": 0, "blocks": 3},
        {"state": "cached", "group": "window", "loop": 1, "blocks": 1},
        {"state": "free", "group": None, "loop": None, "blocks": 1},
    ],
    "cells": [0, 0, 1, 2, 3, 4],
}
PIXELS = """canvas => {
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [0, 1, 2, 3, 4, 5].map((cell) => [...copy.getImageData(cell * 11 + 4, 4, 1, 1).data].join(" "));
}"""


def test_the_block_map(page: Watched) -> None:
    page.page.route("**/cache", lambda route: route.fulfill(json=CACHE))
    blocks = panel(page, "Blocks of the cache")
    picture = blocks.get_by_role("img")
    expect(picture).to_have_attribute(
        "aria-label", "12 blocks: 5 of the first loop, 2 of later loops, 4 kept for reuse, 1 free."
    )
    expect(blocks.locator(".legend b")).to_have_text(["5", "2", "4", "1"])
    expect(blocks).to_contain_text("A square is 2 blocks")
    colours = picture.evaluate(PIXELS)
    assert colours[0] == colours[1]
    assert colours[3] == colours[4]
    assert len(set(colours)) == 4


def test_the_block_map_follows_the_theme(page: Watched) -> None:
    page.page.route("**/cache", lambda route: route.fulfill(json=CACHE))
    picture = panel(page, "Blocks of the cache").get_by_role("img")
    expect(picture).to_have_attribute("aria-label", re.compile("^12 blocks"))
    page.at("#theme").click()
    light = picture.evaluate(PIXELS)
    page.at("#theme").click()
    assert picture.evaluate(PIXELS) != light


@pytest.mark.parametrize("cells", [1, 50, 675, 4096])
@pytest.mark.parametrize("width", [280, 600])
def test_a_map_of_any_size_fits(page: Watched, cells: int, width: int) -> None:
    fitted = page.run(
        "blocks.js", "return it.grid(argument.width, argument.cells);", {"width": width, "cells": cells}
    )
    assert fitted["columns"] * fitted["step"] <= width
    assert fitted["height"] <= 150
    assert 3 <= fitted["step"] <= 11


def test_a_failing_map_is_its_panels_trouble_alone(page: Watched) -> None:
    page.expected.append("Failed to load resource")
    asked: list[str] = []

    def fail(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=503, json={"error": {"message": "The engine is busy."}})

    page.page.route("**/cache", fail)
    expect(panel(page, "Blocks of the cache")).to_contain_text("The engine is busy.")
    page.page.wait_for_timeout(2500)
    assert len(asked) == 1
    expect(page.at("#state")).to_have_text("ready")


def test_signals_of_the_loops(page: Watched) -> None:
    Scrapes(page)
    rows = panel(page, "Loops").locator("tbody tr")
    expect(rows.nth(0).locator("td")).to_have_text(["100", "–", "–", "–"])
    expect(rows.nth(1).locator("td")).to_have_text(["80", "0.5", "0.25", "40 %"])
    expect(panel(page, "Loops")).to_contain_text("of 10 sampled tokens")


def test_a_server_without_a_baseline_says_so(page: Watched) -> None:
    """A model of one loop has nothing to compare with; an engine that has not begun, nothing at all."""
    Scrapes(page, "loopserve_engine_up 1.0\nloopserve_num_requests_running 0.0\n")
    expect(panel(page, "Decode pass")).to_contain_text("not available")
    expect(panel(page, "Cache of live sequences")).to_contain_text("not available")
    expect(panel(page, "Loops")).to_contain_text("not been sampled")
    expect(panel(page, "Decode pass").get_by_role("img")).to_be_hidden()


def test_nothing_decoded_is_no_speed_up(page: Watched) -> None:
    frozen = KNOWN.replace("{parallel}", "1.0").replace("{sequential}", "2.0").replace("{passes}", "9.0")
    scrapes = Scrapes(page, frozen)
    page.page.reload()  # what was scraped of the real server before must not count
    expect(panel(page, "Cache of live sequences")).to_contain_text("4,096 tokens")
    assert scrapes.count > 0
    expect(panel(page, "Decode pass")).to_contain_text("no measured decode passes in the last minute")


def test_failures_make_it_ask_less_often_and_it_recovers(page: Watched) -> None:
    page.expected.append("Failed to load resource")
    failed: list[str] = []

    def fail(route: Route) -> None:
        failed.append(route.request.url)
        route.fulfill(status=500, body='{"error": {"message": "Broken."}}')

    page.page.route("**/metrics", fail)
    expect(page.at("#live-problem")).to_have_text("Broken. Next try in 2 s.")
    expect(page.at("#state")).to_have_text("trouble")
    expect(page.at("#live-problem")).to_have_text("Broken. Next try in 4 s.")
    assert len(failed) == 2
    page.page.unroute("**/metrics")
    expect(page.at("#state")).to_have_text("ready")
    expect(page.at("#live-problem")).to_be_hidden()


def quiet_for(page: Watched, action: Callable[[], Any], scrapes: Scrapes) -> bool:
    action()
    page.page.wait_for_timeout(300)  # what was under way
    before = scrapes.count
    page.page.wait_for_timeout(2500)
    return scrapes.count == before


def test_it_asks_only_while_it_is_seen(page: Watched) -> None:
    scrapes = Scrapes(page)
    show = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    assert quiet_for(page, lambda: page.page.evaluate(show, True), scrapes)
    before = scrapes.count
    page.page.evaluate(show, False)
    page.page.wait_for_timeout(500)
    assert scrapes.count > before


def test_it_can_be_paused(page: Watched) -> None:
    scrapes = Scrapes(page)
    pause = page.page.get_by_role("button", name="Pause")
    assert quiet_for(page, pause.click, scrapes)
    expect(pause).to_have_attribute("aria-pressed", "true")
    before = scrapes.count
    pause.click()
    page.page.wait_for_timeout(500)
    assert scrapes.count > before


def test_a_restart_of_the_server_is_no_negative_rate(page: Watched) -> None:
    body = """
      const { Metrics } = await import("./page/metrics.js");
      const readings = new it.Readings();
      const names = ["generation_tokens_total", "decode_passes_total"];
      const scrape = (n) => new Metrics(names.map((name) => `loopserve_${name} ${n}`).join("\\n"));
      const out = [];
      [10, 20, 40, 3, 8].forEach((n, time) => {
        readings.add(it.read(scrape(n), time));
        out.push(readings.rate("generated", 5), readings.ratio("passes", "generated", 5));
      });
      return out;
    """
    assert page.run("readings.js", body) == [None, None, 10, 1, 15, 1, None, None, 5, 1]


def test_values_and_labels_are_read_as_prometheus_writes_them(page: Watched) -> None:
    text = (
        "# HELP loopserve_a x\n# TYPE loopserve_a counter\n"
        'loopserve_a{x="q\\"1,}",y="line\\n"} 3.5\nloopserve_b 1e3\nloopserve_b_created 1.7e9\n'
        'other_b 7\nloopserve_c{le="+Inf"} +Inf 1700000000\n'
    )
    body = """
      const read = new it.Metrics(argument);
      return [read.all("a"), read.get("b"), read.get("c", { le: "+Inf" }) > 1e308, read.get("d")];
    """
    assert page.run("metrics.js", body, text) == [
        [{"labels": {"x": 'q"1,}', "y": "line\n"}, "value": 3.5}],
        1000,
        True,
        None,
    ]


def test_a_server_that_is_still_loading_gets_its_model_shown_later(
    browser: Browser, server: LiveServer
) -> None:
    with watched(browser, server.url) as page:
        page.page.route("**/metrics", lambda route: route.fulfill(body="loopserve_engine_up 0.0\n"))
        page.open(ready=False)
        expect(page.at("#state")).to_have_text("not ready")
        page.page.unroute("**/metrics")
        expect(page.at("#state")).to_have_text("ready")
        expect(page.at("#model")).to_have_text("demo · 2 loops · 2,048 tokens of context")

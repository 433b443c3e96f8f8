"""A real server under load, a real Prometheus, and every query of both dashboards and of every alert."""

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.settings import DEMO_MODEL
from tests.deploy.grafana import Target, dashboards, filled_in, targets
from tests.deploy.load import Load
from tests.deploy.prometheus import SCRAPE_SECONDS, Prometheus, configure, running
from tests.deploy.promtool import promtool
from tests.deploy.test_rules import ALERTS, all_rules
from tests.server.live import live_server

API_KEY = "a-key-for-tests"
LOAD_SECONDS = 20.0
OPTIONS = {
    "api_keys": API_KEY,
    "threads": 1,  # two that wait for each other are slow beside the clients
    "max_num_seqs": 4,
    "max_waiting_requests": 3,
    "max_model_len": 1024,
    "max_rows_per_step": 128,
    "kv_cache_memory": "8MiB",  # too little for all at their full length: preemptions
    "request_timeout": 3,
    "shadow_steps": 4,
    "loop_metrics_sample": 1,
    "calibration_time": 2,
}
_SELECTOR = re.compile(r"(?<![\w:])((?:instance:)?loopserve_[\w:]+(?:\{[^}]*\})?)")


@dataclass(frozen=True)
class Watched:
    """A server, and what Prometheus has seen of it from `start` to `end`, in seconds since the epoch."""

    url: str
    prometheus: Prometheus
    config: Path
    start: float
    end: float

    @cached_property
    def variables(self) -> dict[str, list[str]]:
        """The values that Grafana would list for each variable."""
        lists: dict[str, list[str]] = {}
        for variable in dashboards()["loopserve-service"]["templating"]["list"]:
            if variable["type"] == "query":
                query = filled_in(variable["query"]["query"], lists, SCRAPE_SECONDS, 1, 1)
                lists[variable["name"]] = self.prometheus.label_values(query)
        return lists

    def series(self, expr: str) -> list[dict[str, Any]]:
        """What a panel shows: its query's series over the whole load."""
        query = filled_in(expr, self.variables, SCRAPE_SECONDS, 1, int(self.end - self.start))
        data = self.prometheus.get("query_range", query=query, start=self.start, end=self.end, step=1)
        return data["result"]

    def now(self, expr: str) -> list[dict[str, Any]]:
        """An expression's series at the end of the load."""
        return self.prometheus.get("query", query=expr, time=self.end)["result"]


def options() -> Iterator[str]:
    for name, value in OPTIONS.items():
        yield from (
            "--" + name.removesuffix("s" if name == "api_keys" else "").replace("_", "-"),
            str(value),
        )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("prometheus")
    with live_server(DEMO_MODEL, *options()) as server:
        config = configure(directory / "config", f"127.0.0.1:{server.port}", API_KEY)
        with running(config, directory) as prometheus:
            time.sleep(2 * SCRAPE_SECONDS)  # counters are seen at rest before they move
            start = time.time()
            Load(server.url, API_KEY, LOAD_SECONDS).run()
            time.sleep(2 * SCRAPE_SECONDS)
            yield Watched(server.url, prometheus, config, start, time.time())


def finite(series: dict[str, Any]) -> list[float]:
    return [number for _, text in series["values"] if math.isfinite(number := float(text))]


@pytest.mark.parametrize("target", targets(), ids=str)
def test_a_panel_returns_data(watched: Watched, target: Target) -> None:
    found = watched.series(target.expr)
    assert found
    assert any(map(finite, found))


def test_the_load_moves_what_it_should(watched: Watched) -> None:
    for name in ("request_success", "requests_refused", "prefix_cache_hits"):
        (total,) = watched.now(f"sum (increase(loopserve_{name}_total[30s]))")
        assert float(total["value"][1]) > 0, name


def test_the_variables_list_the_server(watched: Watched) -> None:
    address = watched.url.removeprefix("http://")
    assert watched.variables == {"job": ["loopserve"], "instance": [address]}
    assert all(
        dashboard["templating"] == dashboards()["loopserve-service"]["templating"]
        for dashboard in dashboards().values()
    )


def test_promtool_accepts_the_configuration_with_a_key(watched: Watched) -> None:
    checked = promtool("check", "config", watched.config)
    assert checked.returncode == 0, checked.stdout


def test_prometheus_evaluates_every_rule(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(all_rules())
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    firing = {alert["labels"]["alertname"] for alert in watched.prometheus.get("alerts")["alerts"]}
    assert firing.isdisjoint({"LoopserveDown", "LoopserveNotReady", "LoopserveNotBatchInvariant"})


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_looks_at_series_that_are_there(watched: Watched, name: str) -> None:
    expr = ALERTS[name]["expr"]
    watched.now(expr)
    for selector in _SELECTOR.findall(expr):
        assert watched.now(selector), selector


def test_scraping_needs_the_key_of_the_configuration(watched: Watched) -> None:
    (target,) = watched.prometheus.get("targets")["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    assert httpx.get(f"{watched.url}/metrics").status_code == 401

"""What a scraper reads at /metrics of the whole application, settings included."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from engine.messages import Request, RequestOutput
from server.state import AppState
from tests.server.played import Played, hangs, says, tokens

COMPLETIONS = "/v1/completions"
ROUTER_GAUGES = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
    "vllm:lora_requests_info",
}
OPENMETRICS = "application/openmetrics-text"
PROMETHEUS_2 = (
    f"{OPENMETRICS};version=1.0.0,{OPENMETRICS};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,{OPENMETRICS};version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def scrape(server: Played, accept: str = "", *asked: dict[str, Any]) -> list[Sample]:
    """All samples after these completions."""

    async def ask(app: FastAPI, state: AppState) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            for body in asked:
                await client.post(COMPLETIONS, json=body)
            return await client.get("/metrics", headers={"accept": accept} if accept else {})

    response = server.run(ask)
    assert response.status_code == 200
    kind = response.headers["content-type"].split(";")[0]
    reads = parse_openmetrics if kind == OPENMETRICS else parse
    return [sample for family in reads(response.text) for sample in family.samples]


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "text/plain;version=0.0.4",
        f"{OPENMETRICS}; version=1.0.0",
        f"{OPENMETRICS}; version=1.0.0; escaping=underscores",
        f"{OPENMETRICS}; version=1.0.0; escaping=dots",
        PROMETHEUS_2,
        PROMETHEUS_3,
    ],
)
def test_routers_find_their_gauges_in_every_format(played: Callable[..., Played], accept: str) -> None:
    names = {sample.name for sample in scrape(played(settings={"metrics_compat": "vllm"}), accept)}
    assert names >= ROUTER_GAUGES


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/plain;version=zz", "text/plain; version=0.0.4"),
        (";=,;version,", "text/plain; version=0.0.4"),
        (f"{OPENMETRICS};version=zz", "text/plain; version=0.0.4"),
        (f"{OPENMETRICS};version=9.9.9", "text/plain; version=0.0.4"),
        (f"{OPENMETRICS};version=0.0.1", "text/plain; version=0.0.4"),
        (OPENMETRICS, f"{OPENMETRICS}; version=1.0.0"),
        (PROMETHEUS_2, f"{OPENMETRICS}; version=1.0.0"),
        (PROMETHEUS_3, f"{OPENMETRICS}; version=1.0.0"),
    ],
)
def test_a_scraper_gets_a_format_it_asked_for_and_is_told_which(
    played: Callable[..., Played], accept: str, kind: str
) -> None:
    response = played().ask("/metrics", method="GET", headers={"accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
    assert response.text.endswith("# EOF\n") is kind.startswith(OPENMETRICS)


def test_without_the_option_there_are_none(played: Callable[..., Played]) -> None:
    names = {sample.name for sample in scrape(played())}
    assert names
    assert not {name for name in names if not name.startswith("loopserve_")}


def test_bounds_are_those_of_the_settings(played: Callable[..., Played]) -> None:
    buckets = {"time_to_first_token_seconds": [0.25, 0.4], "http_request_duration_seconds": [3.0]}
    samples = scrape(played(settings={"histogram_buckets": buckets}), "", {"prompt": "a"})
    for name, bounds in buckets.items():
        found = {sample.labels["le"] for sample in samples if sample.name == f"loopserve_{name}_bucket"}
        assert found == {*map(str, bounds), "+Inf"}


def cancelled(server: Played, body: dict[str, Any]) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for sample in scrape(server, "", body)
        if sample.name == "loopserve_requests_cancelled_total" and sample.value
    }


def test_an_engine_s_error_is_nobody_s_disconnect(played: Callable[..., Played]) -> None:
    """The other sequences of the request end with it, and no client has left."""

    def one_fails(request: Request) -> Iterable[RequestOutput]:
        if request.request_id.endswith("-1"):
            yield RequestOutput(request_id=request.request_id, finish_reason="error", error="broken")
        else:
            yield RequestOutput(request_id=request.request_id, token_ids=tokens("a"))

    assert cancelled(played(one_fails), {"prompt": "a", "n": 3}) == {}


def test_each_sequence_of_a_late_request_timed_out(played: Callable[..., Played]) -> None:
    server = played(hangs("a"), settings={"request_timeout": 0.2})
    assert cancelled(server, {"prompt": "a", "n": 3}) == {"timeout": 3}


def test_an_answered_request_was_not_cancelled(played: Callable[..., Played]) -> None:
    assert cancelled(played(says("abc")), {"prompt": "a", "n": 3}) == {}
    assert cancelled(played(says("abc")), {"prompt": "a", "n": 2, "stop": "b"}) == {}
    assert cancelled(played(says("abc")), {"prompt": "a", "stop": "b"}) == {}


def test_the_event_loop_is_watched_while_the_server_lives(played: Callable[..., Played]) -> None:
    async def wait(app: FastAPI, state: AppState) -> float | None:
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0.6)
            return state.metrics.registry.get_sample_value("loopserve_event_loop_lag_seconds_count")

    assert (played(ready=False).run(wait) or 0) >= 1

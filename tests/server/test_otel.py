"""Traces, as a real collector decodes them."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from server.otel import FLUSH_S, MAX_QUEUED_SPANS, OtelTracer, phases, traces_address
from server.request_notes import FinishedRequest, RequestNotes
from server.state import AppState
from tests.server.collector import Collector, attributes, collector, dead_address, silent_collector
from tests.server.live import live_server
from tests.server.played import Played, hangs

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
COMPLETIONS = "/v1/completions"
FAKE = "tests.server.fake_server"


def trace(server: Played, *asked: tuple[str, dict[str, Any]], headers: Any = None, url: str) -> None:
    """Ask for all of these and close the tracer."""
    server.settings = {**server.settings, "otlp_endpoint": url}

    async def ask(app: FastAPI, state: AppState) -> None:
        assert state.tracer is not None
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            for path, body in asked:
                await client.request("POST" if body else "GET", path, json=body or None, headers=headers)
        await state.tracer.close()

    server.run(ask)


def one_root(got: Collector) -> Span:
    [root] = got.roots
    return root


def test_a_request_is_a_span_with_its_phases(played: Callable[..., Played]) -> None:
    with collector() as got:
        before = time.time_ns()
        body = {"prompt": "my secret", "max_tokens": 4}
        trace(played(), (COMPLETIONS, body), headers={"traceparent": TRACEPARENT}, url=got.url)
        after = time.time_ns()
    assert set(got.paths) == {"/v1/traces"}
    assert got.resource["service.name"] == "loopserve"
    root = one_root(got)
    assert root.name == f"POST {COMPLETIONS}"
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert before <= root.start_time_unix_nano < root.end_time_unix_nano <= after
    found = attributes(root)
    assert 0 < found.pop("gen_ai.server.time_to_first_token") < 10
    assert len(found.pop("loopserve.request_id")) == 32
    assert found.pop("gen_ai.response.id").startswith("cmpl-")
    assert found == {
        "http.request.method": "POST",
        "http.route": COMPLETIONS,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "loopserve",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": len("my secret"),
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "loopserve.loops": 3,
    }
    children = got.children(root)
    assert [child.name for child in children] == ["queue", "decode"]  # the script admits nobody
    for child in children:
        assert child.trace_id == root.trace_id
        assert root.start_time_unix_nano <= child.start_time_unix_nano <= child.end_time_unix_nano
        assert child.end_time_unix_nano <= root.end_time_unix_nano
    assert b"secret" not in b"".join(request.SerializeToString() for request in got.requests)


def test_without_a_parent_each_request_is_a_trace_of_its_own(played: Callable[..., Played]) -> None:
    with collector() as got:
        body = {"messages": [{"role": "user", "content": "a"}]}
        trace(played(), (COMPLETIONS, {"prompt": "a"}), ("/v1/chat/completions", body), url=got.url)
    first, second = got.roots
    assert first.trace_id != second.trace_id
    assert first.parent_span_id == second.parent_span_id == b""
    assert attributes(second).get("gen_ai.operation.name", "chat") == "chat"


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "nonsense")],
        [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
        [("traceparent", b"\xff\xfe")],
    ],
)
def test_a_parent_that_is_none_is_ignored(played: Callable[..., Played], headers: Any) -> None:
    with collector() as got:
        trace(played(), (COMPLETIONS, {"prompt": "a"}), headers=headers, url=got.url)
    assert one_root(got).parent_span_id == b""
    assert one_root(got).trace_id.hex() != TRACE


def test_a_client_that_does_not_sample_is_heeded(played: Callable[..., Played]) -> None:
    with collector() as got:
        headers = {"traceparent": TRACEPARENT[:-1] + "0"}
        trace(played(), (COMPLETIONS, {"prompt": "a"}), headers=headers, url=got.url)
    assert got.spans == []


def test_probes_are_left_out_and_refusals_are_not(played: Callable[..., Played]) -> None:
    with collector() as got:
        bad = (COMPLETIONS, {"prompt": "a", "max_tokens": -1})
        trace(played(), ("/health", {}), ("/metrics", {}), ("/ready", {}), bad, url=got.url)
    root = one_root(got)
    assert attributes(root)["http.response.status_code"] == 400
    assert not any(name.startswith("gen_ai") for name in attributes(root))
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert got.children(root) == []


def test_what_a_client_makes_up_names_no_span(played: Callable[..., Played]) -> None:
    with collector() as got:
        trace(played(), ("/no/such/path", {"a": 1}), url=got.url)
        url = got.url
        tracer = OtelTracer(url, "tiny")
        tracer.on_request(dataclasses.replace(finished(), method="other"))
        asyncio.run(tracer.close())
    unmatched, other = got.roots
    assert unmatched.name == "POST"
    assert "http.route" not in attributes(unmatched)
    assert (other.name, attributes(other)["http.request.method"]) == (f"HTTP {COMPLETIONS}", "_OTHER")


def test_a_failure_is_marked(played: Callable[..., Played]) -> None:
    with collector() as got:
        server = played(hangs("he"), settings={"request_timeout": 0.1})
        trace(server, (COMPLETIONS, {"prompt": "a"}), url=got.url)
    root = one_root(got)
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert attributes(root)["error.type"] == "504"
    assert attributes(root)["gen_ai.response.finish_reasons"] == ["error"]


def test_phases_follow_each_other() -> None:
    notes = RequestNotes(submitted=1.0, begun=2.0, first_token=4.0, last_token=7.0)
    assert list(phases(notes, 9.0)) == [("queue", 1.0, 2.0), ("prefill", 2.0, 4.0), ("decode", 4.0, 7.0)]
    assert list(phases(RequestNotes(submitted=1.0), 9.0)) == [("queue", 1.0, 9.0)]
    assert list(phases(RequestNotes(submitted=1.0, begun=2.0), 9.0)) == [
        ("queue", 1.0, 2.0),
        ("prefill", 2.0, 9.0),
    ]
    assert list(phases(RequestNotes(), 9.0)) == []


def test_the_collector_s_address() -> None:
    for given in ("http://a:4318", "http://a:4318/", "http://a:4318/v1/traces", "http://a:4318/v1/traces/"):
        assert traces_address(given) == "http://a:4318/v1/traces"
    assert traces_address("https://a/otlp") == "https://a/otlp/v1/traces"


def finished() -> FinishedRequest:
    notes = RequestNotes(answer="cmpl-1", submitted=0.1, begun=0.2, first_token=0.3, last_token=0.4)
    return FinishedRequest("r", "POST", COMPLETIONS, 200, "", 0.0, 0.5, [], notes)


def test_what_a_silent_collector_costs_is_bounded() -> None:
    with silent_collector() as url:
        tracer = OtelTracer(url, "tiny")
        count = MAX_QUEUED_SPANS  # of four spans each: most are dropped
        started = time.perf_counter()
        for _ in range(count):
            tracer.on_request(finished())
        assert (time.perf_counter() - started) / count < 0.005
        assert len(queued(tracer)) <= MAX_QUEUED_SPANS
        started = time.perf_counter()
        asyncio.run(tracer.close())
        assert time.perf_counter() - started < FLUSH_S + 1


def queued(tracer: OtelTracer) -> Any:
    [processor] = tracer._provider._active_span_processor._span_processors
    return processor._batch_processor._queue  # type: ignore[attr-defined, unused-ignore]


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_whose_collector_is_gone_serves_and_ends(checkpoint: Path, silent: bool) -> None:
    with silent_collector() as mute:
        url = mute if silent else dead_address()
        with live_server(checkpoint, "--otlp-endpoint", url, module=FAKE) as server:
            for _ in range(20):
                body = {"prompt": "a", "max_tokens": 3}
                answer = httpx.post(f"{server.url}{COMPLETIONS}", json=body, timeout=10)
                assert answer.status_code == 200, answer.text
            ending = time.monotonic()
        assert time.monotonic() - ending < FLUSH_S + 5


def test_a_server_sends_what_is_left_when_it_ends(checkpoint: Path) -> None:
    with collector() as got:
        options = ("--otlp-endpoint", got.url, "--single-process")
        with live_server(checkpoint, *options, module=FAKE) as server:
            headers = {"X-Request-Id": "mine", "traceparent": TRACEPARENT}
            body = {"prompt": "a", "max_tokens": 3, "stream": True}
            assert httpx.post(f"{server.url}{COMPLETIONS}", json=body, headers=headers, timeout=10).is_success
    root = one_root(got)
    assert attributes(root)["loopserve.request_id"] == "mine"
    assert [child.name for child in got.children(root)] == ["queue", "prefill", "decode"]

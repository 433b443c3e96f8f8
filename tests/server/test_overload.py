"""Overload as clients see it: early refusals, statuses instead of events, a loop that long prompts do not stop."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from engine.messages import EngineStats, Request, RequestOutput, StepOutputs
from server.early_refusal import GENERATING_PATHS
from server.engine_client import EngineState
from server.state import AppState
from tests.server.played import Played, hangs, says, tokens

Make = Callable[..., Played]
FULL = {"max_num_seqs": 1, "max_waiting_requests": 0}
ASK = {"prompt": "a", "max_tokens": 5}
CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5}


@asynccontextmanager
async def client_of(app: FastAPI) -> Any:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
        yield client


@asynccontextmanager
async def waiting_request(client: httpx.AsyncClient, state: AppState) -> Any:
    """Somebody whose request waits in the engine meanwhile."""
    asking = asyncio.create_task(client.post("/v1/completions", json=ASK))
    while not state.client.in_flight:
        await asyncio.sleep(0.001)
    try:
        yield asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def raw(app: FastAPI, path: str, body: bytes) -> tuple[int, dict[bytes, bytes], int]:
    """Status, headers, and how many pieces of the body were asked for."""
    asked, start = 0, {}

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        if asked == 1:
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        start.update(message if message["type"] == "http.response.start" else {})

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"test"), (b"content-type", b"application/json")],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await app(scope, receive, send)
    return start["status"], dict(start["headers"]), asked


@pytest.mark.parametrize("path", sorted(GENERATING_PATHS))
def test_a_full_server_refuses_without_reading(played: Make, path: str) -> None:
    server = played(hangs(), settings=FULL)

    async def work(app: FastAPI, state: AppState) -> None:
        async with client_of(app) as client, waiting_request(client, state):
            status, headers, asked = await raw(app, path, b"{")
        assert status == (529 if path == "/v1/messages" else 503)
        assert 1 <= int(headers[b"retry-after"]) <= 60
        assert asked == 0
        assert b"connection" not in headers, "the client will be back"
        assert len(server.host.requests) == 1
        refused = state.metrics.registry.get_sample_value(
            "loopserve_requests_refused_total", {"reason": "queue_full"}
        )
        assert refused == 1

    server.run(work)


def test_paths_that_are_refused_early_are_those_that_generate(played: Make) -> None:
    """Every route that takes a body is either one of them or known to need no engine; `/calibrate` takes none."""
    others = {
        *("/tokenize", "/detokenize", "/v1/messages/count_tokens", "/calibrate"),
        *("/v1/completions/render", "/v1/chat/completions/render"),
    }

    async def work(app: FastAPI, state: AppState) -> None:
        paths = app.openapi()["paths"]
        taking = {path for path, methods in paths.items() if "post" in methods}
        assert taking == GENERATING_PATHS | others

    played().run(work)


def test_a_full_server_still_answers_what_needs_no_engine(played: Make) -> None:
    server = played(hangs(), settings=FULL)

    async def work(app: FastAPI, state: AppState) -> None:
        async with client_of(app) as client, waiting_request(client, state):
            assert (await client.post("/tokenize", json={"prompt": "abc"})).status_code == 200
            assert (await client.get("/ready")).status_code == 200, "full, not unready"
            assert (await client.get("/v1/models")).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert "loopserve_num_tokens_waiting 1.0" in metrics

    server.run(work)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", ASK, 503),
        ("/v1/completions", {**ASK, "n": 2}, 503),
        ("/v1/chat/completions", CHAT, 503),
        ("/v1/responses", {"input": "a"}, 503),
        ("/v1/messages", {"model": "tiny", **CHAT}, 529),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}, 503),
    ],
)
def test_the_queue_deadline_is_a_status_also_for_streams(
    played: Make, path: str, body: dict[str, Any], status: int, stream: bool
) -> None:
    """Although comments would have been due long before."""
    server = played(hangs(), settings={"queue_timeout": 0.2, "sse_keep_alive": 0.02})
    if path == "/infill":
        body = {"prompt": "a"}
        path = "/v1/fim/completions"
    response = server.ask(path, {**body, "stream": stream})
    assert response.status_code == status, response.text
    assert 1 <= int(response.headers["retry-after"]) <= 60
    if status == 503:
        assert response.json()["error"]["code"] == "queue_timeout"
    assert sorted(set(server.host.aborted)) == sorted(request.request_id for request in server.host.requests)


@pytest.mark.parametrize("queue_timeout", [5, 0])
def test_comments_begin_when_the_request_is_taken_up(played: Make, queue_timeout: float) -> None:
    """Or at once, where no deadline can refuse it."""
    server = played(hangs(), settings={"queue_timeout": queue_timeout, "sse_keep_alive": 0.05})

    def later(request: Request) -> list[RequestOutput]:
        loop = asyncio.get_running_loop()
        admitted = StepOutputs([], EngineStats(step_seconds=0.01, admitted=[request.request_id]))
        last = RequestOutput(request_id=request.request_id, token_ids=tokens("a"), finish_reason="length")
        loop.call_later(0.2, server.host.inbox.put, admitted)
        loop.call_later(0.4, server.host.inbox.put, StepOutputs([last], EngineStats()))
        return []

    server.script = later

    async def work(app: FastAPI, state: AppState) -> None:
        async with client_of(app) as client:
            response = await client.post("/v1/completions", json={**ASK, "stream": True})
            assert response.status_code == 200
            count = response.text.count(": keep-alive\n\n")
            if queue_timeout:
                assert 1 <= count <= 4, "for 0.2 s after the deadline ended"
            else:
                assert 5 <= count <= 8
            assert response.text.endswith("data: [DONE]\n\n")

    server.run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_over_its_time_is_a_504_that_clients_do_not_retry(played: Make, stream: bool) -> None:
    server = played(hangs(), settings={"request_timeout": 0.1})
    response = server.ask("/v1/completions", {**ASK, "stream": stream})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert response.headers["x-should-retry"] == "false"
    server = played(hangs("abc"), settings={"request_timeout": 0.1})
    events = server.stream("/v1/completions", ASK)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "abc"
    assert events[-1]["error"]["code"] == "deadline_exceeded"
    assert server.host.aborted


def test_a_draining_server_says_close_on_every_answer(played: Make) -> None:
    server = played(says("hello"))

    async def work(app: FastAPI, state: AppState) -> None:
        async with client_of(app) as client:
            assert "connection" not in (await client.get("/health")).headers
            await state.client.drain(1)
            assert state.client.state is EngineState.DRAINING
            for answer in (
                await client.get("/health"),
                await client.get("/ready"),
                await client.get("/nowhere"),
                await client.post("/v1/completions", json=ASK),
                await client.post("/v1/messages", json={"model": "tiny", **CHAT}),
            ):
                assert answer.headers["connection"] == "close", answer.url
            _, headers, asked = await raw(app, "/v1/completions", json.dumps(ASK).encode())
            assert (headers[b"connection"], asked > 0) == (b"close", True), "the body is read before closing"

    server.run(work)


LONG_TEXTS = {
    "letters": "a" * 1_000_000,
    "spaces": " " * 1_000_000,
    "lines": "\n" * 1_000_000,
    "words": "def foo(x): return x + 1\n" * 40_000,
}


@pytest.mark.parametrize("kind", LONG_TEXTS)
def test_a_megabyte_of_prompt_does_not_stop_the_event_loop(played: Make, kind: str) -> None:
    """The tokenizer works in a thread, and lets go of the GIL there."""
    server = played(hangs())

    async def work(app: FastAPI, state: AppState) -> None:
        async with client_of(app) as client:
            body = json.dumps({"prompt": LONG_TEXTS[kind]}).encode()
            headers = {"content-type": "application/json"}
            asking = asyncio.create_task(client.post("/v1/completions", content=body, headers=headers))
            longest, last = 0.0, time.perf_counter()
            began = last
            while not asking.done():
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
            assert asking.result().status_code == 400
            # A second and more in all; on a busy machine the loop may be late, but not for most of that.
            assert longest < max(0.25, (last - began) / 3)

    server.run(work)

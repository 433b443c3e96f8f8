"""What is noted about a request, whatever its end."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from engine.messages import Request, RequestOutput
from server.request_log import log_request
from server.request_notes import FinishedRequest, RequestNotesMiddleware, current_notes
from server.state import AppState
from tests.server.asgi import call, echo
from tests.server.played import Played, hangs, says

COMPLETIONS = "/v1/completions"
LOGGED = {"log_requests": True}


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """The fields of the lines about requests."""
    caplog.set_level(logging.INFO)
    return lambda: [record.fields for record in caplog.records if record.name == "server.request_log"]


def test_an_answer_leaves_its_times_and_counts(
    played: Callable[..., Played], told: Callable[[], Any]
) -> None:
    server = played(says("hello"), settings=LOGGED)
    answer = server.ask(COMPLETIONS, {"prompt": "my secret", "n": 2}, headers={"x-request-id": "mine"})
    [fields] = told()
    assert fields["request_id"] == "mine"
    assert fields["answer"] == answer.json()["id"]
    assert (fields["method"], fields["path"], fields["status"]) == ("POST", COMPLETIONS, 200)
    assert fields["generated_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert fields["cached_tokens"] == 2 * 3
    assert fields["finish_reasons"] == "stop,stop"
    assert 0 < fields["first_token_seconds"] <= fields["seconds"]
    assert 0 <= fields["decode_seconds"] < fields["seconds"]
    assert "secret" not in str(fields)
    assert "hello" not in str(fields)


def test_the_engine_is_told_the_clients_id(played: Callable[..., Played]) -> None:
    server = played()
    server.ask(COMPLETIONS, {"prompt": "a", "n": 2}, headers={"x-request-id": "mine"})
    assert [request.label for request in server.host.requests] == ["mine", "mine"]


def test_what_ends_too_late_is_noted_as_an_error(
    played: Callable[..., Played], told: Callable[[], Any]
) -> None:
    server = played(hangs("he"), settings={**LOGGED, "request_timeout": 0.1})
    assert server.ask(COMPLETIONS, {"prompt": "a"}).status_code == 504
    [fields] = told()
    assert (fields["status"], fields["finish_reasons"], fields["generated_tokens"]) == (504, "error", 2)


def test_what_the_engine_fails_is_noted_as_an_error(
    played: Callable[..., Played], told: Callable[[], Any]
) -> None:
    def fails(request: Request) -> Iterable[RequestOutput]:
        yield RequestOutput(request_id=request.request_id, finish_reason="error", error="broken")

    assert played(fails, settings=LOGGED).ask(COMPLETIONS, {"prompt": "a"}).status_code == 500
    assert [(fields["status"], fields["finish_reasons"]) for fields in told()] == [(500, "error")]


def test_a_client_that_leaves_is_noted_as_an_abort(
    played: Callable[..., Played], told: Callable[[], Any]
) -> None:
    async def leave(app: FastAPI, state: AppState) -> None:
        begun = asyncio.Event()
        coming = [{"type": "http.request", "body": b'{"prompt": "a", "stream": true}'}]
        headers = [(b"content-type", b"application/json"), (b"host", b"tiny")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": COMPLETIONS,
            "query_string": b"",
            "headers": headers,
        }

        async def receive() -> Message:
            if not coming:
                await begun.wait()
            return coming.pop() if coming else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message.get("body"):
                begun.set()

        await app(scope, receive, send)

    played(hangs("he"), settings=LOGGED).run(leave)
    [fields] = told()
    assert (fields["status"], fields["finish_reasons"]) == (200, "abort")


def test_a_request_that_the_engine_was_not_asked_for(
    played: Callable[..., Played], told: Callable[[], Any]
) -> None:
    server = played(settings=LOGGED)
    server.ask(COMPLETIONS, {"prompt": "a", "max_tokens": -1})
    server.ask("/no/such/path", method="BREW")
    refused, lost = told()
    assert (refused["status"], refused["path"]) == (400, COMPLETIONS)
    assert (lost["status"], lost["path"], lost["method"]) == (404, "unmatched", "other")
    assert all("answer" not in fields and "loops" not in fields for fields in (refused, lost))


def test_a_bug_is_a_500(played: Callable[..., Played], told: Callable[[], Any]) -> None:
    def breaks(request: Request) -> Iterable[RequestOutput]:
        raise RuntimeError("our own")

    assert played(breaks, settings=LOGGED).ask(COMPLETIONS, {"prompt": "a"}).status_code == 500
    assert [fields["status"] for fields in told()] == [500]


def test_the_scheduler_s_queue_is_timed(played: Callable[..., Played], told: Callable[[], Any]) -> None:
    server = played(settings=LOGGED)

    async def ask(app: FastAPI, state: AppState) -> None:
        submit = state.client.submit

        def slowly(*arguments: Any) -> Any:
            streams = submit(*arguments)
            streams[0].begun = streams[0].started + 0.25  # as the engine's report of it would
            return streams

        state.client.submit = slowly  # type: ignore[method-assign]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tiny") as client:
            await client.post(COMPLETIONS, json={"prompt": "a"})

    server.run(ask)
    [fields] = told()
    assert fields["queue_seconds"] == 0.25


def test_nothing_is_noted_when_nobody_listens(played: Callable[..., Played], told: Callable[[], Any]) -> None:
    assert played().ask(COMPLETIONS, {"prompt": "a"}).status_code == 200
    assert told() == []
    assert current_notes() is None


def test_an_observer_that_fails_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[FinishedRequest] = []

    def fails(request: FinishedRequest) -> None:
        raise RuntimeError("broken")

    app = RequestNotesMiddleware(echo, [fails, seen.append, log_request])
    assert asyncio.run(call(app, chunks=[b"hi"])).body == b"hi"
    assert [request.status for request in seen] == [200]
    assert "a request could not be told of" in caplog.text


def test_an_exception_on_its_way_through_is_told_and_goes_on() -> None:
    seen: list[FinishedRequest] = []

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(call(RequestNotesMiddleware(broken, [seen.append])))
    assert [request.status for request in seen] == [500]

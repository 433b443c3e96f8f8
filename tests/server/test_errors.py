"""Error objects, and the words in them that clients look for."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.messages import Request, RequestOutput
from server.openai import errors
from server.openai.errors import ApiError, install_error_handlers, to_api_error
from server.request_id import RequestIdMiddleware
from server.state import AppState
from tests.server.played import MAX_MODEL_LEN, Played, hangs, tokens

KEYS = {"message", "type", "param", "code"}
Make = Callable[..., Played]

# What decides that a prompt was too long: LiteLLM (which Aider uses) and OpenHands look into the message in lower
# case, LangChain into the text of the exception, which holds the code up to openai-python 2 and only the message from
# openai-python 3 on.
LITELLM = "this model's maximum context length is"
OPENHANDS = "please reduce the length of"
LANGCHAIN = ("context_length_exceeded", "prompt is too long")


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (
            "/v1/completions",
            {"prompt": [9] * 600, "max_tokens": 7},
            "prompt",
            "This model's maximum context length is 512 tokens. However, your prompt contains 600 tokens and "
            "requested 7 completion tokens, so the prompt is too long. Please reduce the length of the prompt.",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a" * 20}], "max_tokens": 500},
            "messages",
            "This model's maximum context length is 512 tokens. However, your prompt contains 39 tokens and "
            "requested 500 completion tokens, so the prompt is too long. Please reduce the length of the messages.",
        ),
    ],
)
def test_the_overflow_text_is_frozen(
    played: Make, path: str, body: dict[str, Any], param: str, message: str
) -> None:
    assert MAX_MODEL_LEN == 512
    response = played().ask(path, body)
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": "context_length_exceeded",
    }
    assert LITELLM in message.lower()
    assert OPENHANDS in message.lower()
    assert all(text in response.text for text in LANGCHAIN)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("length", [512, 600])
def test_overflow_without_a_wish_for_tokens(played: Make, length: int, stream: bool) -> None:
    response = played().ask("/v1/completions", {"prompt": [9] * length, "stream": stream})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_a_prompt_that_fills_the_context_can_be_echoed(played: Make) -> None:
    body = {"prompt": [9] * 512, "max_tokens": 0, "echo": True}
    assert played().ask("/v1/completions", body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/completions/", 404),
        ("GET", "//v1//models", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/docs", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/" + "x" * 10_000, 404),
    ],
)
def test_routing_errors(played: Make, method: str, path: str, status: int) -> None:
    response = played().ask(path, method=method)
    assert response.status_code == status
    assert set(response.json()["error"]) == KEYS
    assert len(response.content) < 1000
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_loading_is_503_with_retry_after(played: Make, path: str) -> None:
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    response = played(ready=False).ask(path, body)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["type"] == "server_error"


def test_a_full_queue_is_503_for_the_whole_request(played: Make) -> None:
    server = played(settings={"max_num_seqs": 1, "max_waiting_requests": 2})
    response = server.ask("/v1/completions", {"prompt": "a", "n": 4})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert server.host.requests == []


def test_a_dead_engine_is_a_typed_500(played: Make) -> None:
    server = played()

    def dies(request: Request) -> list[RequestOutput]:
        server.host.inbox.close("killed")
        return []

    server.script = dies
    response = server.ask("/v1/completions", {"prompt": "a"})
    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("engine_dead", "server_error")


def test_an_engine_that_dies_in_a_stream_ends_it_with_the_error(played: Make) -> None:
    server = played()

    def dies(request: Request) -> list[RequestOutput]:
        asyncio.get_running_loop().call_later(0.05, server.host.inbox.close, "killed")
        return [RequestOutput(request_id=request.request_id, token_ids=tokens("a"))]

    server.script = dies
    first, last = server.stream("/v1/completions", {"prompt": "a"})
    assert first["choices"][0]["text"] == "a"
    assert last["error"]["code"] == "engine_dead"


def test_a_bug_shows_nothing_but_the_request_id() -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def broken() -> None:
        raise RuntimeError("/secret/path 0xdeadbeef")

    app.add_middleware(RequestIdMiddleware)

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/", headers={"x-request-id": "mine"})

    response = asyncio.run(main())
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "Internal server error.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert response.headers["x-request-id"] == "mine"


def test_long_messages_are_cut() -> None:
    body = ApiError(400, "x" * 100_000).body()
    assert len(body.error.message) == errors.MAX_MESSAGE_CHARS
    assert to_api_error(KeyError("secret")).message == "Internal server error."


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", ["", "a"])
def test_a_client_that_leaves_ends_the_engines_work(played: Make, path: str, stream: bool, said: str) -> None:
    """Before the first token and between tokens, through all middleware of the application."""
    server = played(hangs(said))
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "n": 2, "stream": stream}

    async def leave(app: FastAPI, state: AppState) -> None:
        gone = asyncio.Event()
        asking = asyncio.create_task(call(app, path, body, gone))
        async with asyncio.timeout(5):
            while len(server.host.requests) < 2:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            gone.set()
            await asking
        assert state.client.in_flight == 0
        outcomes = state.metrics.registry.get_sample_value(
            "loopserve_request_success_total", {"finished_reason": "abort"}
        )
        assert outcomes == 2

    server.run(leave)
    assert sorted(server.host.aborted) == sorted(request.request_id for request in server.host.requests)


async def call(app: FastAPI, path: str, body: dict[str, Any], gone: asyncio.Event) -> None:
    """One request by a client that leaves when `gone` is set."""
    content = httpx.Request("POST", "http://x", json=body).content
    pending = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if pending:
            return pending.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await app(scope, receive, send)  # type: ignore[arg-type]

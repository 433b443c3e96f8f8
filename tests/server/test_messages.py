"""`/v1/messages` over a scripted engine: answers, and errors in Anthropic's shape."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.anthropic.errors import AnthropicErrorsMiddleware
from server.api_keys import ApiKeys
from server.app import create_app
from server.state import AppState
from tests.server.asgi import call
from tests.server.played import MAX_MODEL_LEN, Played, says
from tests.server.test_chat import ASK, turn
from tests.server.test_responses import DEEP, breaks_after, encoded
from tests.server.typed import typed_stream

URL, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HI = {"role": "user", "content": "hi"}
BODY = {"model": "tiny", "max_tokens": 20, "messages": [HI]}
MAX_REPLY = 4096
DEEP_CALL = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": DEEP}}],
}
Make = Callable[..., Played]


def message(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {**BODY, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def check_error(response: httpx.Response, status: int, kind: str) -> str:
    """The error's text, after everything else about it has been checked."""
    assert response.status_code == status, response.text
    assert len(response.content) < MAX_REPLY
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert set(body["error"]) == {"type", "message"}
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    text: str = body["error"]["message"]
    return text


def test_the_answer_has_anthropics_shape(played: Make) -> None:
    response = played().ask(URL, BODY, headers={"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"})
    assert response.headers["request-id"]
    answer = response.json()
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "hello", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "input_tokens": 18,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 6,
            "cache_creation": None,
            "inference_geo": None,
            "output_tokens_details": None,
            "server_tool_use": None,
            "service_tier": None,
            "loops": 3,
        },
    }


def test_a_stream_as_the_documentation_shows_it(played: Make) -> None:
    events = typed_stream(played(says("hé")), URL, BODY)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["usage"]["input_tokens"] == 18
    assert "".join(one["delta"]["text"] for one in events if one["type"] == "content_block_delta") == "hé"
    nothing = dict.fromkeys(["stop_sequence", "stop_details", "container"])
    assert events[-2]["delta"] == {"stop_reason": "end_turn", **nothing}
    assert events[-2]["usage"]["output_tokens"] == 4


def test_the_prompt(played: Make) -> None:
    server = played()
    message(server, system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}])
    prompt = server.host.requests[0].prompt_token_ids
    assert prompt == [*turn("system", "s"), *turn("user", "hi"), *ASK]
    body = {"model": "tiny", "messages": [HI], "system": "s"}
    assert played().ask(COUNT, body).json() == {"input_tokens": len(prompt)}


def test_a_prompt_too_long_to_serve_can_be_counted(played: Make) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a" * 600}]}
    assert played().ask(COUNT, body).json()["input_tokens"] > MAX_MODEL_LEN


def test_stop_sequences_and_limits(played: Make) -> None:
    stopped = message(played(), stop_sequences=["x", "ll"])
    assert stopped["content"][0]["text"] == "he"
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "ll")
    cut = message(played(), max_tokens=2)
    assert (cut["content"][0]["text"], cut["stop_reason"]) == ("he", "max_tokens")


def test_more_tokens_than_the_context_has_room_for(played: Make) -> None:
    """Claude Code asks for 32,000 at least, whatever the model is."""
    server = played(says("x" * 600, stop=False))
    answer = message(server, max_tokens=32_000)
    request = server.host.requests[0]
    assert request.params.max_tokens == MAX_MODEL_LEN - len(request.prompt_token_ids)
    assert answer["stop_reason"] == "model_context_window_exceeded"
    assert message(played(), max_tokens=32_000)["stop_reason"] == "end_turn"


@pytest.mark.parametrize("length", [493, 600])
def test_overflow_has_the_words_that_claude_code_looks_for(played: Make, length: int) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "a" * length}]}
    text = check_error(played().ask(URL, body), 400, "invalid_request_error")
    assert text == f"prompt is too long: {length + 19} tokens > {MAX_MODEL_LEN - 1} maximum"


def test_errors_of_every_layer_have_anthropics_shape(played: Make) -> None:
    ask = played().ask
    check_error(ask(URL, {**BODY, "model": "claude"}), 404, "not_found_error")
    check_error(ask(COUNT, {**BODY, "model": "claude"}), 404, "not_found_error")
    check_error(ask("/v1/messages/batches", {}), 404, "not_found_error")
    check_error(ask(URL, {"messages": [HI], "max_tokens": 3}), 400, "invalid_request_error")
    check_error(ask(URL, content=b"{"), 400, "invalid_request_error")
    check_error(ask(URL, content=b"{}", headers={"content-type": "text/plain"}), 415, "invalid_request_error")
    response = ask(URL, method="GET")
    check_error(response, 405, "invalid_request_error")
    assert response.headers["allow"] == "POST"
    limited = played(settings={"max_body_size": 1000})
    check_error(limited.ask(URL, {**BODY, "system": "a" * 1000}), 413, "request_too_large")


def test_other_paths_keep_openais_shape(played: Make) -> None:
    for path in ("/v1/messagesX", "/v1/chat/completions"):
        response = played().ask(path, {})
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert "request-id" not in response.headers


def test_not_ready_is_overloaded(played: Make) -> None:
    for stream in (False, True):
        response = played(ready=False).ask(URL, {**BODY, "stream": stream})
        check_error(response, 529, "overloaded_error")
        assert int(response.headers["retry-after"]) > 0


def test_failures_of_the_engine(played: Make) -> None:
    for stream in (False, True):
        response = played(breaks_after("")).ask(URL, {**BODY, "stream": stream})
        assert check_error(response, 500, "api_error") == "out of order"
    *_, last = typed_stream(played(breaks_after("he")), URL, BODY)
    assert last == {"type": "error", "error": {"type": "api_error", "message": "out of order"}}


def test_our_own_bug(played: Make) -> None:
    def broken(state: AppState) -> AppState:
        return replace(state, tokenizer=None)

    text = check_error(played(change=broken).ask(URL, BODY), 500, "api_error")
    assert text == "Internal server error."


def test_a_wrong_key(played: Make) -> None:
    async def main(app: FastAPI, state: AppState) -> None:
        guarded = create_app(replace(state, metrics=type(state.metrics)("0")), ApiKeys(["key"]))
        transport = httpx.ASGITransport(guarded)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            wrong = await client.post(URL, json=BODY, headers={"x-api-key": "wrong"})
            check_error(wrong, 401, "authentication_error")
            right = await client.post(URL, json=BODY, headers={"x-api-key": "key"})
            assert right.status_code == 200

    played().run(main)


def test_a_body_that_is_no_error_object_is_rewritten_too() -> None:
    async def odd(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 502, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"[", "more_body": True})
        await send({"type": "http.response.body", "body": b"1]"})

    reply = asyncio.run(call(AnthropicErrorsMiddleware(odd), URL))
    assert reply.status == 502
    assert b'"type":"api_error"' in reply.body
    assert int(reply.headers["content-length"]) == len(reply.body)


@pytest.mark.parametrize(
    "body",
    [
        *({"max_tokens": 0}, {"max_tokens": None}, {"max_tokens": "9"}, {"max_tokens": 2**40}),
        *({"temperature": 3}, {"temperature": "hot"}, {"top_p": -1}, {"top_k": -1}, {"top_k": 1.5}),
        *({"stop_sequences": "x" * 1000}, {"stop_sequences": [1]}, {"stop_sequences": ["a"] * 17}),
        *({"messages": DEEP}, {"messages": [{}] * 100_000}, {"messages": [HI] * 20_000}, {"messages": None}),
        *({"system": DEEP}, {"system": [{}] * 100_000}, {"tools": [{}] * 100_000}, {"tools": DEEP}),
        *({"tool_choice": "auto"}, {"tool_choice": DEEP}, {"thinking": 7}, {"metadata": [1]}),
        *({"stream": "yes"}, {"model": 7}, {"output_config": {"format": DEEP}}, {"seed": "1"}),
        *({"messages": [{"role": "user", "content": [{"type": "x" * 100_000}]}]},),
        *(
            {"messages": [DEEP_CALL, HI]},
            {"tools": [{"name": "f", "input_schema": {"type": "object", "x": DEEP}}]},
        ),
        *({"messages": [{"role": "x" * 100_000, "content": ""}]}, {"service_tier": "x" * 1000}),
    ],
)
def test_hostile_bodies(played: Make, body: dict[str, Any]) -> None:
    server = played()
    response = server.ask(URL, content=encoded({**BODY, **body}))
    text = check_error(response, 400, "invalid_request_error")
    assert "x" * 201 not in text
    assert server.host.requests == []

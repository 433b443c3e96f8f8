"""`/v1/responses` over a scripted engine."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from openai.types.responses import Response

from engine.messages import Request, RequestOutput
from tests.server.played import MAX_MODEL_LEN, Played, says, tokens
from tests.server.test_chat import ASK, turn
from tests.server.typed import typed_stream

URL = "/v1/responses"
MAX_REPLY = 4096
Make = Callable[..., Played]


def respond(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"input": "hi", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_answer_has_openai_shape(played: Make) -> None:
    answer = respond(played(), model="tiny")
    parsed = Response.model_validate(answer, strict=True)
    assert parsed.output_text == "hello"
    assert (parsed.status, parsed.object, parsed.model) == ("completed", "response", "tiny")
    assert answer["id"].startswith("resp_")
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 3
    assert answer["usage"]["output_tokens"] == 6


def test_the_input_goes_through_the_template(played: Make) -> None:
    server = played()
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        {"role": "user", "content": "u"},
    ]
    respond(server, input=items, instructions="i")
    expected = [*turn("system", "i\n\nd"), *turn("user", "u"), *ASK]
    assert server.host.requests[0].prompt_token_ids == expected


def test_fields_reach_the_engine(played: Make) -> None:
    server = played()
    fields = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "seed": 11,
        "max_output_tokens": 3,
        "priority": 2,
    }
    answer = respond(server, **fields)
    request = server.host.requests[0]
    assert (request.params.temperature, request.params.top_p, request.params.top_k) == (0.5, 0.25, 7)
    assert (request.params.seed, request.params.max_tokens, request.priority) == (11, 3, 2)
    assert (answer["temperature"], answer["top_p"], answer["max_output_tokens"]) == (0.5, 0.25, 3)
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["content"][0]["text"] == "hel"


def test_without_a_limit_the_answer_may_fill_the_context(played: Make) -> None:
    server = played()
    respond(server)
    request = server.host.requests[0]
    assert request.params.max_tokens == MAX_MODEL_LEN - len(request.prompt_token_ids)


def test_what_is_only_said_back(played: Make) -> None:
    said = {
        "metadata": {"a": "b"},
        "user": "u",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "parallel_tool_calls": False,
        "max_tool_calls": 3,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "instructions": "i",
    }
    answer = respond(
        played(),
        store=True,
        include=["reasoning.encrypted_content"],
        truncation="auto",
        service_tier="auto",
        stream_options={"include_obfuscation": False},
        **said,
    )
    assert {name: answer[name] for name in said} == said
    assert (answer["store"], answer["truncation"], answer["previous_response_id"]) == (
        False,
        "disabled",
        None,
    )


def test_logprobs(played: Make) -> None:
    body = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    entries = respond(played(says("é")), **body)["output"][0]["content"][0]["logprobs"]
    assert [entry["bytes"] for entry in entries[:2]] == [[0xC3], [0xA9]]
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == [-0.5, -1.5]
    events = typed_stream(played(says("é")), URL, {"input": "hi", **body})
    streamed = [
        entry for event in events if event["type"].endswith("text.delta") for entry in event["logprobs"]
    ]
    assert streamed == entries


def test_a_stream_says_the_same_as_the_object(played: Make) -> None:
    events = typed_stream(played(says("hé")), URL, {"input": "hi"})
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    final = events[-1]["response"]
    assert text == Response.model_validate(final, strict=True).output_text == "hé"
    whole = respond(played(says("hé")))
    changing = {"id", "created_at", "completed_at", "output"}
    assert {k: v for k, v in final.items() if k not in changing} == {
        k: v for k, v in whole.items() if k not in changing
    }


def breaks_after(text: str) -> Callable[[Request], Iterable[RequestOutput]]:
    def play(request: Request) -> Iterable[RequestOutput]:
        for token in tokens(text):
            yield RequestOutput(request_id=request.request_id, token_ids=[token])
        yield RequestOutput(request_id=request.request_id, finish_reason="error", error="out of order")

    return play


def test_a_late_failure_is_response_failed(played: Make) -> None:
    *_, last = typed_stream(played(breaks_after("he")), URL, {"input": "hi"})
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "out of order"}
    assert last["response"]["output"][0]["content"][0]["text"] == "he"
    Response.model_validate(last["response"], strict=True)


def test_an_early_failure_has_its_status(played: Make) -> None:
    response = played(breaks_after("")).ask(URL, {"input": "hi", "stream": True})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_error"


def test_not_ready_is_503(played: Make) -> None:
    response = played(ready=False).ask(URL, {"input": "hi"})
    assert response.status_code == 503
    assert response.headers["retry-after"]


def test_another_model_is_404(played: Make) -> None:
    response = played().ask(URL, {"input": "hi", "model": "gpt"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


DEEP = "deep"
"""Stands for a list nested deeper than Python's own encoder could write."""


def encoded(body: dict[str, Any]) -> bytes:
    nested = "[" * 1000 + "]" * 1000
    return json.dumps(body).replace(f'"{DEEP}"', nested).encode()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": DEEP}, "input"),
        ({"input": [{}] * 100_000}, "input"),
        ({"input": "a" * 600}, "input"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "a", "max_output_tokens": 600}, "input"),
        ({"input": "a", "max_output_tokens": True}, "max_output_tokens"),
        ({"input": "a", "temperature": "hot"}, "temperature"),
        ({"input": "a", "temperature": {}}, "temperature"),
        ({"input": "a", "top_k": [1]}, "top_k"),
        ({"input": "a", "top_logprobs": 21}, "top_logprobs"),
        ({"input": "a", "stop": ["a"] * 17}, "stop"),
        ({"input": "a", "stream": "yes"}, "stream"),
        ({"input": "a", "stream": None, "instructions": 7}, "instructions"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "a", "conversation": "c"}, "conversation"),
        ({"input": "a", "conversation": {"id": "c"}}, "conversation"),
        ({"input": "a", "prompt": {"id": "p"}}, "prompt"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "truncation": "maybe"}, "truncation"),
        ({"input": "a", "include": "all"}, "include"),
        ({"input": "a", "include": ["a"] * 100}, "include"),
        ({"input": "a", "metadata": {str(i): "a" for i in range(17)}}, "metadata"),
        ({"input": "a", "metadata": {"a": 1}}, "metadata"),
        ({"input": "a", "metadata": {"a": "x" * 1000}}, "metadata"),
        ({"input": "a", "user": "x" * 1000}, "user"),
        ({"input": "a", "text": "json"}, "text"),
        ({"input": "a", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"input": "a", "text": {"format": {"type": ["text"]}}}, "text.format.type"),
        ({"input": "a", "reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"input": "a", "tools": [{"type": "file_search"}]}, "tools.0.type"),
        ({"input": "a", "tools": {}}, "tools"),
        ({"input": "a", "tools": [{"type": "function", "name": "f", "x": DEEP}]}, "tools"),
        ({"input": "a", "tool_choice": {"type": "function", "name": "f", "x": DEEP}}, "tool_choice"),
        ({"input": "a", "text": {"format": {"type": "text", "x": DEEP}}}, "text"),
        ({"input": "a", "tool_choice": 3}, "tool_choice"),
        ({"input": "a", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_is_refused(played: Make, body: dict[str, Any], param: str) -> None:
    server = played()
    response = server.ask(URL, content=encoded(body))
    assert response.status_code == 400, response.text
    assert len(response.content) < MAX_REPLY
    assert response.json()["error"]["param"] == param
    assert "x" * 201 not in response.text
    assert server.host.requests == []


def test_storage_is_refused_in_so_many_words(played: Make) -> None:
    message = played().ask(URL, {"input": "a", "previous_response_id": "r"}).json()["error"]["message"]
    assert "stores nothing" in message


def test_overflow_keeps_the_words_clients_look_for(played: Make) -> None:
    error = played().ask(URL, {"input": "a" * 600}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "This model's maximum context length is 512 tokens" in error["message"]

"""`/v1/chat/completions` over a scripted engine."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.server.played import MAX_MODEL_LEN, Played, says, tokens

URL = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
START, END = 3, 4
Make = Callable[..., Played]


def chat(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"messages": HI, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def turn(role: str, text: str) -> list[int]:
    """A turn as the checkpoint's template writes it."""
    return [START, *tokens(f"{role}\n{text}"), END, *tokens("\n")]


ASK = [START, *tokens("assistant\n")]


def test_the_answer_has_openai_shape(played: Make) -> None:
    answer = chat(played())
    assert answer["object"] == "chat.completion"
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "hello"
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert answer["usage"]["completion_tokens"] == 6


def test_messages_go_through_the_template_without_a_second_bos(played: Make) -> None:
    server = played()
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    chat(server, messages=[{"role": "developer", "content": "d"}, {"role": "user", "content": parts}])
    expected = [*turn("system", "d"), *turn("user", "one two"), *ASK]
    assert server.host.requests[0].prompt_token_ids == expected


def test_special_tokens_in_content_are_parsed_as_hugging_face_does(played: Make) -> None:
    server = played()
    chat(server, messages=[{"role": "user", "content": "<|im_end|>"}])
    assert server.host.requests[0].prompt_token_ids == [
        START,
        *tokens("user\n"),
        END,
        END,
        *tokens("\n"),
        *ASK,
    ]


def test_the_default_length_is_the_rest_of_the_context(played: Make) -> None:
    server = played()
    chat(server)
    request = server.host.requests[0]
    assert request.params.max_tokens == MAX_MODEL_LEN - len(request.prompt_token_ids)


def test_max_completion_tokens_wins(played: Make) -> None:
    server = played(says("x" * 50))
    answer = chat(server, max_tokens=9, max_completion_tokens=4)
    assert answer["choices"][0]["message"]["content"] == "xxxx"
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_stream_begins_with_the_role_and_ends_with_an_empty_delta(played: Make) -> None:
    chunks = played(says("hé")).stream(URL, {"messages": HI, "stream_options": {"include_usage": True}})
    *parts, usage = chunks
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"] for chunk in parts]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in parts[-2:]] == [None, "stop"]
    assert "".join(delta.get("content", "") for delta in deltas) == "hé"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4


def test_choices_interleave_by_index(played: Make) -> None:
    chunks = played().stream(URL, {"messages": HI, "n": 3})
    for index in range(3):
        deltas = [c["delta"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in deltas) == "hello"


def test_logprobs_have_bytes(played: Make) -> None:
    choice = chat(played(says("é")), logprobs=True, top_logprobs=2)["choices"][0]
    content = choice["logprobs"]["content"]
    assert [entry["bytes"] for entry in content[:2]] == [[0xC3], [0xA9]]
    assert [entry["logprob"] for entry in content] == [-1.5] * 3
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.5, -1.5]


def test_streamed_logprobs_are_those_of_the_whole(played: Make) -> None:
    body = {"logprobs": True, "top_logprobs": 1, "stop": ["lo"]}
    whole = chat(played(), **body)["choices"][0]["logprobs"]["content"]
    chunks = played().stream(URL, {"messages": HI, **body})
    streamed = [
        entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == whole


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "x" * 10_000, "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages.0.tool_calls",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"chat_template": "x"}, "chat_template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"modalities": ["audio"]}, "modalities"),
    ],
)
def test_what_is_refused(played: Make, body: dict[str, Any], param: str) -> None:
    server = played()
    response = server.ask(URL, {"messages": HI, **body})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert server.host.requests == []


def test_a_model_without_a_template_says_what_to_do(played: Make) -> None:
    response = played(change=lambda state: replace(state, chat_template=None)).ask(URL, {"messages": HI})
    assert response.status_code == 400
    assert "--chat-template" in response.json()["error"]["message"]

"""The loop budget and loop logprobs over HTTP, over a scripted engine of a model of three loops."""

from collections.abc import Callable
from typing import Any

import pytest

from server.openai.body import request_body
from server.openai.protocol import ChatCompletionRequest, CompletionRequest, GenerationFields
from tests.server.played import Played, says

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "abc"},
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
}
Make = Callable[..., Played]
BOTH = pytest.mark.parametrize("path", [COMPLETIONS, CHAT])


def ask(server: Played, path: str, header: str | list[str] | None = None, **body: Any) -> Any:
    texts = [header] if isinstance(header, str) else header or []
    headers = [("x-loops", text.encode("latin-1")) for text in texts]
    return server.ask(path, {**BODIES[path], **body}, headers=headers)


@BOTH
@pytest.mark.parametrize(
    ("header", "body", "loops"),
    [
        (None, {}, None),
        (None, {"loops": None}, None),
        (None, {"loops": 1}, 1),
        (None, {"loops": 3}, 3),
        ("2", {}, 2),
        ("2", {"loops": None}, 2),
        ("2", {"loops": 2}, 2),
        (["1", "1"], {}, 1),
    ],
)
def test_the_budget_reaches_the_engine_and_the_usage(
    played: Make, path: str, header: Any, body: dict[str, Any], loops: int | None
) -> None:
    server = played()
    response = ask(server, path, header, n=2, **body)
    assert response.status_code == 200, response.text
    assert [request.num_loops for request in server.host.requests] == [loops, loops]
    assert response.json()["usage"]["loops"] == (loops or 3)


@BOTH
def test_streamed_usage_has_it_too(played: Make, path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = played().stream(path, {**BODIES[path], "loops": 2, "stream_options": options})
    assert {chunk["usage"]["loops"] for chunk in chunks} == {2}


EVERYWHERE: dict[str, dict[str, Any]] = {
    "/v1/fim/completions": {"prompt": "a", "suffix": "b"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"model": "tiny", "max_tokens": 5, "messages": BODIES[CHAT]["messages"]},
}


@pytest.mark.parametrize("path", EVERYWHERE)
def test_every_endpoint_that_generates_takes_a_budget(played: Make, path: str) -> None:
    for headers, extra in (([], {"loops": 2}), ([("x-loops", b"2")], {})):
        server = played()
        response = server.ask(path, {**EVERYWHERE[path], **extra}, headers=headers)
        assert response.status_code == 200, response.text
        assert [request.num_loops for request in server.host.requests] == [2]
    assert played().ask(path, {**EVERYWHERE[path], "loops": 4}).status_code == 400


MALFORMED = [0, -1, 4, 10**30, True, False, 1.0, 1.5, "2", "", [1], [[]], {}, {"a": 1}, ["x" * 10_000] * 100]


@BOTH
@pytest.mark.parametrize("loops", [pytest.param(value, id=str(i)) for i, value in enumerate(MALFORMED)])
@pytest.mark.parametrize("header", [None, "1"])
def test_another_budget_is_refused(played: Make, path: str, loops: Any, header: str | None) -> None:
    server = played()
    response = ask(server, path, header, loops=loops)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"]) == ("loops", "invalid_request_error")
    assert "1 to 3" in error["message"] or "differ" in error["message"]
    assert len(response.content) < 500
    assert server.host.requests == []


@BOTH
@pytest.mark.parametrize(
    "header", ["0", "4", "-1", "+1", "1.0", "1e0", "²", "one", "", "1,1", "9" * 5000, "true", ["x", "x"]]
)
def test_another_header_is_refused(played: Make, path: str, header: Any) -> None:
    server = played()
    response = ask(server, path, header)
    assert response.status_code == 400
    assert "from 1 to 3" in response.json()["error"]["message"]
    assert server.host.requests == []


@BOTH
@pytest.mark.parametrize(("header", "loops"), [("1", 2), (["1", "2"], None), (["1", "2"], 2), ("x", 2)])
def test_two_that_differ_are_refused(played: Make, path: str, header: Any, loops: int | None) -> None:
    response = ask(played(), path, header, loops=loops)
    assert response.status_code == 400
    assert "differ" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "field", "hint"),
    [
        (COMPLETIONS, "num_loops", "Use loops"),
        (CHAT, "loop_budget", "Use loops"),
        (CHAT, "loop_logprobs", "/v1/completions"),
    ],
)
def test_other_names_are_refused_with_a_hint(played: Make, path: str, field: str, hint: str) -> None:
    error = ask(played(), path, **{field: 2}).json()["error"]
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    assert hint in error["message"]


def test_loops_belong_to_generation(played: Make) -> None:
    response = played().ask("/tokenize", {"prompt": "a", "loops": 1})
    assert response.status_code == 400
    assert played().ask("/tokenize", {"prompt": "a"}, headers={"X-Loops": "1"}).status_code == 200


def test_loop_logprobs_are_numbers_beside_logprobs(played: Make) -> None:
    server = played(says("hé"))
    answer = ask(server, COMPLETIONS, loop_logprobs=True, logprobs=1, echo=True).json()
    choice = answer["choices"][0]
    assert choice["loop_logprobs"] == [[-9999.0, -9999.0, -1.5]] * 4, (
        "one per generated token, none for the prompt"
    )
    assert [loops[-1] for loops in choice["loop_logprobs"]] == choice["logprobs"]["token_logprobs"][3:]
    fewer = ask(played(says("h")), COMPLETIONS, loop_logprobs=True, loops=1).json()["choices"][0]
    assert fewer["loop_logprobs"] == [[-1.5], [-1.5]]
    assert fewer["logprobs"] is None


def test_loop_tokens_are_texts_beside_them(played: Make) -> None:
    """The script's loops say one byte less, each before the next; part of a character is written as its bytes."""
    choice = ask(played(says("hé")), COMPLETIONS, loop_logprobs=True, logprobs=1).json()["choices"][0]
    assert choice["loop_tokens"][0] == ["f", "g", "h"]
    assert choice["loop_tokens"][1] == ["bytes:\\xc1", "bytes:\\xc2", "bytes:\\xc3"]
    assert [loops[-1] for loops in choice["loop_tokens"]] == choice["logprobs"]["tokens"]
    fewer = ask(played(says("h")), COMPLETIONS, loop_logprobs=True, loops=1).json()["choices"][0]
    assert fewer["loop_tokens"][0] == ["h"]


@pytest.mark.parametrize("value", [None, False])
def test_who_does_not_ask_gets_none(played: Make, value: bool | None) -> None:
    server = played()
    answer = ask(server, COMPLETIONS, loop_logprobs=value, logprobs=1).json()
    assert not {"loop_logprobs", "loop_tokens"} & set(answer["choices"][0])
    assert not server.host.requests[0].params.loop_logprobs
    chunks = played().stream(COMPLETIONS, {**BODIES[COMPLETIONS], "loop_logprobs": value})
    assert all("loop_logprobs" not in choice for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("value", [1, "yes", [True]])
def test_loop_logprobs_is_true_or_false(played: Make, value: Any) -> None:
    assert ask(played(), COMPLETIONS, loop_logprobs=value).json()["error"]["param"] == "loop_logprobs"


@pytest.mark.parametrize("extra", [{}, {"logprobs": 1}, {"stop": ["lo"]}, {"n": 3}, {"max_tokens": 2}])
def test_a_stream_says_what_the_whole_answer_says(played: Make, extra: dict[str, Any]) -> None:
    body = {**BODIES[COMPLETIONS], "loop_logprobs": True, **extra}
    whole = played().ask(COMPLETIONS, body).json()
    chunks = played().stream(COMPLETIONS, body)
    for expected in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == expected["index"]]
        for name in ("loop_logprobs", "loop_tokens"):
            assert [loops for choice in mine for loops in choice[name]] == expected[name]
        assert len(expected["loop_tokens"]) == len(expected["loop_logprobs"])
        assert "".join(choice["text"] for choice in mine) == expected["text"]
        if "stop" not in extra:
            assert len(expected["loop_logprobs"]) == min(6, extra.get("max_tokens", 6))


@pytest.mark.parametrize("model", [CompletionRequest, ChatCompletionRequest])
def test_the_schema_has_them(model: type[GenerationFields]) -> None:
    schema = request_body(model)["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["loops"]["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert ("loop_logprobs" in schema["properties"]) == (model is CompletionRequest)

"""Bodies that hurt other servers: each gets a short error in OpenAI's shape, at once, and reaches no engine."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from server.openai.responses_protocol import ResponsesRequest
from tests.server.played import Played

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MAX_REPLY = 4096
MAX_SECONDS = 0.5  # generous for a shared machine; what it guards against took seconds
LEAKS = re.compile(rb"Traceback|0x[0-9a-f]{6,}|/site-packages/|\.py\b")
Make = Callable[..., Played]


def with_prompt(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", **fields}).encode()


def raw(text: str) -> bytes:
    """A completion body with one more field, written by hand as Python would not write it."""
    return b'{"prompt": "a", ' + text.encode() + b"}"


def refused(
    server: Played, content: bytes, path: str = COMPLETIONS, statuses: tuple[int, ...] = (400,)
) -> None:
    started = time.perf_counter()
    response = server.ask(path, content=content)
    seconds = time.perf_counter() - started
    assert response.status_code in statuses, response.text[:500]
    assert len(response.content) <= MAX_REPLY
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert not LEAKS.search(response.content)
    assert "x" * 201 not in response.text
    assert server.host.requests == []
    assert seconds < MAX_SECONDS + SETUP_SECONDS


SETUP_SECONDS = 1.0  # each call makes a whole application

NUMBERS = {
    "n": [10**9, 129, 0, -1, 1.5, True, "1", [1]],
    "best_of": [10**6, 0],
    "max_tokens": [-1, 2**63, 10**30, True, "16", 1.5, 513],
    "min_tokens": [10**9, 17, -1, True],
    "temperature": [-1, 1e308, "hot", True, [0.5]],
    "top_p": [0, -0.1, 1.0001, 2],
    "top_k": [-2, 2**63, 1.5],
    "min_p": [2, -0.1],
    "presence_penalty": [2.1, -3],
    "frequency_penalty": [2.1, -3],
    "repetition_penalty": [0, -1, 1e9],
    "logprobs": [10**6, -1, 21, "many", True, 1.5],
    "seed": [2**64, 2**63, -(2**63) - 1, 1.5, "1"],
    "priority": [10**9, -(10**9), 0.5],
    "stream": ["yes", 1],
    "echo": ["yes", 1],
    "ignore_eos": [1],
    "skip_special_tokens": ["no"],
    "stop": ["", [""], ["a"] * 17, ["a"] * 100_000, "x" * 1_000_000, ["x" * 257], 7, [7], {"a": 1}, [["a"]]],
    "stop_token_ids": [[-1], [320], [2**40], ["1"], [True], [1] * 100_000, 5, [1.0]],
    "logit_bias": [
        {"320": 1},
        {"-1": 1},
        {"a": 1},
        {"1_0": 1},
        {"٣": 1},
        {"5": 101},
        {"5": "1"},
        {"5": True},
        {"5": None},
        [5],
        {str(index): 1 for index in range(100_000)},
    ],
    "stream_options": [7, {"include_usage": 1}],
    "cache_salt": ["x" * 1_000_000, 7],
    "user": ["x" * 1_000_000],
    "metadata": [{"a": "x" * 1_000_000}, {str(index): "a" for index in range(17)}],
    "request_id": ["x" * 1_000_000],
    "truncate_prompt_tokens": [-5, 10**9],
    "suffix": [7, ["a"]],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}-{index}")
        for name, values in NUMBERS.items()
        for index, value in enumerate(values)
    ],
)
def test_values_out_of_bounds(played: Make, name: str, value: Any) -> None:
    refused(played(), with_prompt(**{name: value}))


PROMPTS = [
    *([-1], [320], [2**31], [2**63], [10**30], [True, False], [1.0], [[1], ["a"]], [1, "a"], ["a", 1]),
    *([[]], [], "", [""], [[1], []], None, 7, True, {"a": 1}, [[1, True]], [[[1]]], [None], [{}] * 100_000),
    *(["a"] * 65, [[1]] * 100_000, ["a"] * 2049, [1] * 100_000, "x" * 1_000_000, {"x": "x" * 1_000_000}),
]


@pytest.mark.parametrize("prompt", [pytest.param(value, id=str(i)) for i, value in enumerate(PROMPTS)])
def test_prompts(played: Make, prompt: Any) -> None:
    refused(played(), with_prompt(prompt=prompt))


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b" ", b"[]", b'"x"', b"1", b"null", b"{}", b"{'prompt': 'a'}", b'{"prompt": "a"', b"\xff\xfe"),
        *(b'{"prompt": "a"} x', b'{"prompt": "a",}', b'{"prompt": "a" /* c */}', b"// c\n{}"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"prompt": ' + b"[" * 2000 + b"]" * 2000 + b"}"),
        *('{"prompt": "a"}'.encode("utf-16"), '{"prompt": "a"}'.encode("utf-32"), b'{"prompt": "\xff\xfe"}'),
        *(b'{"prompt": "\\ud800"}', b'{"prompt": "\\udc00\\ud800"}', b'{"\\ud800": 1}'),
        b"{" + b",".join(b'"k%d":1' % index for index in range(100_000)) + b"}",
    ],
)
def test_bodies_that_are_no_request(played: Make, path: str, content: bytes) -> None:
    refused(played(), content, path)


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens", "logprobs", "user", "unknown"])
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", "0x10", "+1", ".5"]
)
def test_numbers_that_json_does_not_have(played: Make, name: str, number: str) -> None:
    refused(played(), raw(f'"{name}": {number}'))


@pytest.mark.parametrize("name", ["temperature", "seed", "max_tokens", "n", "top_k"])
def test_numbers_of_thousands_of_digits(played: Make, name: str) -> None:
    refused(played(), raw(f'"{name}": ' + "9" * 5000))


MESSAGES = [
    *([{}] * 100_000, ["x" * 1_000_000], {"role": "x" * 1_000_000}, [[]] * 5000, [None], None, [], "hi", 7),
    [{"role": "user", "content": "a"}] * 5000,
    [{"role": "user", "content": [{}] * 100_000}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x" * 1_000_000}}]}],
    [{"role": "user", "content": "a", "name": "x" * 1_000_000}],
    [{"role": "function", "content": "a"}],
]


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
@pytest.mark.parametrize("messages", [pytest.param(value, id=str(i)) for i, value in enumerate(MESSAGES)])
def test_messages(played: Make, path: str, messages: Any) -> None:
    refused(played(), json.dumps({"messages": messages}).encode(), path)


def test_a_long_text_may_be_tokenised_but_not_served(played: Make) -> None:
    content = json.dumps({"messages": [{"role": "user", "content": "x" * 1_000_000}]}).encode()
    refused(played(), content, CHAT)
    assert played().ask("/tokenize", content=content).json()["count"] > 1_000_000


@pytest.mark.parametrize(
    "tokens", [[320], [-1], [True], ["a"], 5, [1.5], [2**64], [0] * 300_000, [{}] * 100_000]
)
def test_detokenize(played: Make, tokens: Any) -> None:
    refused(played(), json.dumps({"tokens": tokens}).encode(), "/detokenize")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": ""},
        {"content-encoding": "gzip"},
        {"content-encoding": "br"},
        {"content-encoding": "identity, gzip"},
    ],
)
def test_other_media_are_415(played: Make, headers: dict[str, str]) -> None:
    response = played().ask(COMPLETIONS, content=with_prompt(), headers=headers)
    assert response.status_code == 415
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_charset_is_fine(played: Make) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8", "content-encoding": "identity"}
    assert played().ask(COMPLETIONS, content=with_prompt(), headers=headers).status_code == 200


def test_a_body_above_the_limit_is_413(played: Make) -> None:
    refused(played(settings={"max_body_size": 1000}), with_prompt(prompt="a" * 1000), statuses=(413,))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../../etc/passwd",
            "a/../../b",
            "a\x00b",
            "C:\\",
            "x" * 10_000,
            "__proto__",
            "{{x}}",
            "%s%n",
            "",
            "tinу",
        ),
        *("TINY", "tiny "),
    ],
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_other_models_are_404(played: Make, path: str, name: str) -> None:
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "model": name}
    response = played().ask(path, body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert len(response.content) <= MAX_REPLY
    assert "x" * 201 not in response.text


@pytest.mark.parametrize(
    "body",
    [
        *(
            {"prompt": "a\x00b"},
            {"prompt": "\x1b[31m\u202e"},
            {"prompt": "e" + "\u0301" * 200},
            {"prompt": "👨‍👩‍👧" * 20},
        ),
        *({"temperature": 1e-320}, {"temperature": 0}, {"stop": "\x00"}, {"cache_salt": "../\x00\r\n"}),
        *({"logit_bias": {str(i): -100 for i in range(320)}}, {"user": "a\r\nb\x00"}, {"seed": -(2**63)}),
        *({"top_k": -1}, {"stop": ["a"] * 16}, {"n": 128}, {"prompt": "<|im_start|></s><unk>"}),
    ],
)
def test_odd_but_allowed(played: Make, body: dict[str, Any]) -> None:
    assert played().ask(COMPLETIONS, {"prompt": "a", **body}).status_code == 200


def test_of_a_key_that_comes_twice_the_last_value_counts(played: Make) -> None:
    server = played()
    assert server.ask(COMPLETIONS, content=raw('"max_tokens": 1, "max_tokens": 2')).status_code == 200
    assert server.host.requests[0].params.max_tokens == 2


def nested(kind: str, levels: int = 1000) -> str:
    """JSON as deep as the parser lets through, which is deeper than Python can recurse."""
    begin, end = ("[", "]") if kind == "list" else ('{"a":', "}")
    return begin * levels + "1" + end * levels


@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, '{"prompt": "a", "metadata": DEEP}'),
        (CHAT, '{"messages": [{"role": "user", "content": "a"}], "service_tier": DEEP}'),
        ("/tokenize", '{"prompt": "a", "user": DEEP}'),
        ("/v1/responses", '{"input": [{"type": DEEP}]}'),
        ("/v1/responses", '{"input": [{"role": "user", "content": [{"type": DEEP, "text": "a"}]}]}'),
        ("/v1/responses", '{"input": "a", "text": {"format": {"type": DEEP}}}'),
        ("/v1/responses", '{"input": "a", "tools": [{"type": DEEP}]}'),
    ],
)
def test_nesting_too_deep_to_look_into(played: Make, path: str, body: str, kind: str) -> None:
    refused(played(), body.replace("DEEP", nested(kind)).encode(), path)


@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize(
    "body",
    [
        '{"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": DEEP}]}]}',
        '{"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "tools": [{"type": DEEP}]}',
        '{"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "user": DEEP}',
    ],
)
def test_nesting_in_messages(played: Make, body: str, kind: str) -> None:
    response = played().ask("/v1/messages", content=body.replace("DEEP", nested(kind)).encode())
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.content) <= MAX_REPLY


@pytest.mark.parametrize(
    "metadata", [{str(i): 1 for i in range(100_000)}, {"a": 1}, {"a": "x" * 513}, {"x" * 513: ""}, [1], "a"]
)
def test_metadata_of_responses(played: Make, metadata: Any) -> None:
    """An error per entry, as a validator would collect them, takes a second for a large object."""
    body = json.dumps({"input": "a", "metadata": metadata}).encode()
    refused(played(), body, "/v1/responses")
    with pytest.raises(ValidationError) as found:
        ResponsesRequest.model_validate_json(body)
    assert found.value.error_count() == 1

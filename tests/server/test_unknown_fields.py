"""Fields beyond OpenAI's that real clients send: they pass, unless ignoring them would give a wrong answer."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.server.played import Played

Make = Callable[..., Played]
MESSAGES = [{"role": "user", "content": "a"}]
TRACE = {"trace_version": "1.58", "session_id": "s", "tags": ["agent:x", "model:y"], "trace_user_id": "u"}

CHATS: dict[str, dict[str, Any]] = {
    "cline": {
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "low",
        "max_tokens": None,
    },
    "continue": {
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "prediction": {"type": "content", "content": "x = 1\n" * 10_000},
        "tools": None,
        "reasoning": {"effort": "low"},
        "include_reasoning": True,
    },
    "aider": {"temperature": 0, "stream": True, "extra_headers": {"a": "b"}, "num_ctx": 8192},
    "openhands": {
        "max_completion_tokens": 9,
        "stream_options": {"include_usage": True},
        "stream": True,
        "metadata": TRACE,
        "top_k": 20,
        "safety_settings": None,
        "seed": None,
    },
    "litellm": {
        "user": "u",
        "parallel_tool_calls": None,
        "thinking": {"type": "disabled"},
        "enable_thinking": False,
        "drop_params": True,
        "service_tier": "auto",
        "safety_identifier": "s",
    },
    "langchain": {"n": 1, "temperature": 0.7, "response_format": None, "store": False, "verbosity": "low"},
    "openrouter": {"provider": {"order": ["a"]}, "transforms": [], "usage": {"include": True}, "plugins": []},
}


@pytest.mark.parametrize("client", CHATS)
def test_what_chat_clients_add_passes(played: Make, client: str) -> None:
    server = played()
    response = server.ask("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, **CHATS[client]})
    assert response.status_code == 200, response.text
    assert len(server.host.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a", "max_completion_tokens": 5, "logprobs": None, "echo": False, "keep_alive": "5m"},
        {"prompt": [5, 6], "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234, "temperature": 0},
        {"prompt": "a", "stop": ["\n"] * 9, "stream": True, "stream_options": {"include_usage": True}},
        {
            "prompt": "a",
            "ignore_eos": True,
            "repetition_penalty": 1.0,
            "logprobs": None,
            "use_beam_search": False,
        },
    ],
)
def test_what_completion_clients_add_passes(played: Make, body: dict[str, Any]) -> None:
    response = played().ask("/v1/completions", {"model": "tiny", **body})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ],
)
@pytest.mark.parametrize("field", ["guided_json", "regex", "ebnf", "json_object", "bad_words", "lora_path"])
def test_a_constraint_by_any_name_is_refused(
    played: Make, path: str, body: dict[str, Any], field: str
) -> None:
    server = played()
    response = server.ask(path, {**body, field: "x"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    assert server.host.requests == []


def test_what_is_ignored_is_logged_once_and_answers_are_the_same(
    played: Make, caplog: pytest.LogCaptureFixture
) -> None:
    plain = played().ask("/v1/completions", {"prompt": "a"}).json()
    more = played().ask("/v1/completions", {"prompt": "a", "keep_alive": 1, "num_ctx": 1}).json()
    assert more["choices"] == plain["choices"]
    (record,) = [record for record in caplog.records if "unknown" in record.getMessage()]
    assert "'keep_alive', 'num_ctx'" in record.getMessage()

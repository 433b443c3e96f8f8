"""Forced tool calls of the demo model, which knows nothing of tools: the grammar alone makes them valid."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from server.settings import DEMO_MODEL
from tests.server.live import live_server

MODEL = "demo"
PARAMETERS = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "minLength": 1, "maxLength": 30},
        "mode": {"type": "string", "enum": ["read", "write"]},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "maxItems": 3},
    },
    "required": ["path", "mode", "lines"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "open_file", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "list_files", "description": "All files."}},
]
ASK: Any = [{"role": "user", "content": "Read the file setup.py."}]


@pytest.fixture(scope="module", params=["hermes", "qwen3_coder"])
def client(request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    options = (
        "--kv-cache-memory",
        "64MiB",
        "--served-model-name",
        MODEL,
        "--tool-call-parser",
        request.param,
    )
    with live_server(DEMO_MODEL, *options) as live:
        yield live.client()


def check(name: str, arguments: str) -> None:
    values = json.loads(arguments)
    if name == "list_files":
        assert values == {}
        return
    assert name == "open_file"
    assert set(values) == set(PARAMETERS["properties"])
    assert 1 <= len(values["path"]) <= 30
    assert values["mode"] in ("read", "write")
    assert len(values["lines"]) <= 3
    assert all(type(line) is int and 0 <= line <= 999 for line in values["lines"])


def test_required(client: OpenAI) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            model=MODEL,
            messages=ASK,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            seed=seed,
        )
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        check(call.function.name, call.function.arguments)


def test_named_and_streamed(client: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "open_file"}}
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=named, temperature=1.0, seed=5
    ) as stream:
        kinds = {event.type for event in stream}
        choice = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.function.name == "open_file"
    check(call.function.name, call.function.arguments)


def test_several_calls_within_a_limit(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        tools=TOOLS,
        tool_choice="required",
        max_tokens=300,
        temperature=1.0,
        seed=3,
    )
    (choice,) = answer.choices
    calls = choice.message.tool_calls or []
    assert calls
    complete = calls if choice.finish_reason == "tool_calls" else calls[:-1]
    for call in complete:
        assert call.type == "function"
        check(call.function.name, call.function.arguments)

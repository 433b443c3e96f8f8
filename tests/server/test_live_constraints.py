"""Structured output of the real server and the demo model: what comes is valid because the grammar makes it so."""

import json
import re
from pathlib import Path

import openai
import pytest

from tests.engine.grammars import BOUNDED, is_bounded
from tests.server.live import LiveServer, live_server

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
ASK = [{"role": "user", "content": "Describe a person as JSON."}]


@pytest.fixture(scope="module", params=["process", "thread"])
def demo(request: pytest.FixtureRequest):
    options = ["--single-process"] if request.param == "thread" else []
    with live_server(DEMO, "--max-model-len", "1024", "--kv-cache-memory", "256MiB", *options) as server:
        yield server


def schema_format(strict: bool | None = None) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": BOUNDED, "strict": strict}}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("strict", [True, False])
def test_json_schema_in_chat(demo: LiveServer, temperature: float, strict: bool) -> None:
    answer = demo.client().chat.completions.create(
        model="demo",
        messages=ASK,
        response_format=schema_format(strict),
        temperature=temperature,
        max_tokens=500,
        n=3,
        seed=1,
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        assert is_bounded(choice.message.content)


def test_streamed_json_is_the_same(demo: LiveServer) -> None:
    common = {
        "model": "demo",
        "messages": ASK,
        "response_format": schema_format(),
        "max_tokens": 500,
        "seed": 3,
    }
    whole = demo.client().chat.completions.create(**common)
    chunks = demo.client().chat.completions.create(**common, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == whole.choices[0].message.content
    assert is_bounded(streamed)


def test_json_object(demo: LiveServer) -> None:
    answer = demo.client().chat.completions.create(
        model="demo", messages=ASK, response_format={"type": "json_object"}, max_tokens=200, temperature=0
    )
    text = answer.choices[0].message.content
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)
    assert not re.search(r"\s{30}", text)


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_choice_regex_and_grammar_in_completions(demo: LiveServer, ignore_eos: bool) -> None:
    def complete(constraint: dict, **options: object) -> openai.types.Completion:
        body = {"structured_outputs": constraint, "ignore_eos": ignore_eos}
        return demo.client().completions.create(
            model="demo", prompt="def f():", max_tokens=60, extra_body=body, **options
        )

    for seed in range(3):
        text = complete({"choice": ["red", "green", "bl\nue ☂"]}, seed=seed).choices[0].text
        assert text in ("red", "green", "bl\nue ☂")
    many = complete({"regex": r"[a-c]{2,8}\d"}, n=4, logprobs=2)
    for choice in many.choices:
        assert choice.finish_reason == "stop"
        assert re.fullmatch(r"[a-c]{2,8}\d", choice.text)
        assert "".join(choice.logprobs.tokens).startswith(choice.text)
    text = complete({"grammar": 'start: "(" (start | "x") ")"'}, temperature=0).choices[0].text
    assert re.fullmatch(r"\(*x?\)*", text)


def test_hostile_grammars_are_refused_and_the_server_goes_on(demo: LiveServer) -> None:
    client = demo.client()
    for constraint in ({"regex": "("}, {"json": {"$ref": "#"}}, {"grammar": "start: start"}):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.completions.create(
                model="demo", prompt="a", max_tokens=3, extra_body={"structured_outputs": constraint}
            )
        assert refusal.value.code == "invalid_grammar"
    assert client.completions.create(model="demo", prompt="a", max_tokens=3).usage.completion_tokens == 3

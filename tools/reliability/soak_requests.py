"""The mixture of a soak: what clients send all day, right and wrong, each with a check of its answer."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.reliability.questions import Outcome, Question
from tools.reliability.wire import Call, Exchange

Check = Callable[[Exchange], str]
"""What is wrong with an answer; "" if nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a kind; `check` knows what must come of it."""

    kind: str
    call: Call
    check: Check


class Mixture:
    """Draws requests."""

    def __init__(self, questions: list[Question], seed: int) -> None:
        self._questions = questions
        self._seed = seed
        self._kinds: dict[str, tuple[float, Callable[[random.Random, int], tuple[Call, Check]]]] = {
            "streamed": (0.14, lambda rng, number: self._ask(rng, number, stream=True)),
            "whole": (0.09, lambda rng, number: self._ask(rng, number, stream=False)),
            "given up": (0.10, self._abort),
            "unique schema": (0.48, _schema),
            "tool call": (0.05, _tool),
            "refused": (0.07, _wrong),
            "odd": (0.07, _odd),
        }

    def draw(self, number: int) -> Request:
        """The request of that number, always the same."""
        rng = random.Random(f"{self._seed}/{number}")
        names = list(self._kinds)
        kind = rng.choices(names, [self._kinds[name][0] for name in names])[0]
        return Request(kind, *self._kinds[kind][1](rng, number))

    def _ask(self, rng: random.Random, number: int, *, stream: bool) -> tuple[Call, Check]:
        question = rng.choice(self._questions)

        def check(done: Exchange) -> str:
            answer = question.judge(done)
            return "" if answer.outcome is Outcome.RIGHT else f"{answer.outcome} {answer.detail}"

        return question.call(f"{self._seed}/{number}", stream=stream), check

    def _abort(self, rng: random.Random, number: int) -> tuple[Call, Check]:
        """Leave a stream after some of its events, or before the first."""
        call = rng.choice(self._questions).call(f"{self._seed}/{number}", stream=True)
        leave = Call(call.method, call.path, call.body, leave_after=rng.randint(0, 12))
        return leave, lambda done: _status(done, 200)


def _schema(rng: random.Random, number: int) -> tuple[Call, Check]:
    """A schema that nobody has sent before, so that no cache of grammars can have it."""
    value = f"v{number}"
    schema = {"type": "object", "properties": {"a": {"const": value}}, "required": ["a"]}
    body = _chat(rng) | {
        "max_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
    }

    def check(done: Exchange) -> str:
        said = _message(done).get("content")
        return "" if _parsed(said) == {"a": value} else f"{done.status} {said!r}"

    return Call("POST", "/v1/chat/completions", body), check


def _tool(rng: random.Random, number: int) -> tuple[Call, Check]:
    parameters = {"type": "object", "properties": {"n": {"enum": [number % 100, 7]}}, "required": ["n"]}
    body = _chat(rng) | {
        "max_tokens": 60,
        "tools": [{"type": "function", "function": {"name": "pick", "parameters": parameters}}],
        "tool_choice": {"type": "function", "function": {"name": "pick"}},
    }

    def check(done: Exchange) -> str:
        calls = _message(done).get("tool_calls") or [{}]
        given = _parsed(calls[0].get("function", {}).get("arguments"))
        fine = isinstance(given, dict) and given.get("n") in (number % 100, 7)
        return "" if fine else f"{done.status} {calls}"

    return Call("POST", "/v1/chat/completions", body), check


WRONG: tuple[tuple[str, str, object, int], ...] = (
    ("POST", "/v1/completions", {"prompt": "x", "max_tokens": -1}, 400),
    ("POST", "/v1/completions", {"prompt": [10**9], "max_tokens": 1}, 400),
    ("POST", "/v1/completions", {"prompt": "x " * 5000, "max_tokens": 1}, 400),
    ("POST", "/v1/completions", {"prompt": "x", "model": "another"}, 404),
    ("POST", "/v1/completions", b'{"prompt": "cut', 400),
    ("POST", "/v1/completions", {"prompt": "x", "structured_outputs": {"regex": "(a"}}, 400),
    ("POST", "/v1/chat/completions", {"messages": []}, 400),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": 7}]}, 400),
    ("POST", "/v1/embeddings", {"input": "x"}, 404),
    ("GET", "/v1/completions", None, 405),
    ("GET", "/nothing", None, 404),
)

HI = [{"role": "user", "content": "hi"}]
ODD: tuple[tuple[str, str, object], ...] = (
    ("POST", "/v1/completions", {"prompt": ["a", "b c"], "n": 2, "max_tokens": 4}),
    ("POST", "/v1/completions", {"prompt": "def f", "max_tokens": 0, "echo": True, "logprobs": 3}),
    ("POST", "/v1/completions", {"prompt": "def f(", "max_tokens": 24, "stop": ["\n", ")"]}),
    (
        "POST",
        "/v1/completions",
        {"prompt": "x", "max_tokens": 6, "loops": 1, "loop_logprobs": True, "logprobs": 1},
    ),
    ("POST", "/v1/completions", {"prompt": "é𝄞\u200d", "max_tokens": 6, "temperature": 1.5, "seed": 3}),
    ("POST", "/v1/messages", {"model": "demo", "max_tokens": 6, "messages": HI}),
    ("POST", "/v1/responses", {"model": "demo", "input": "hi", "max_output_tokens": 6}),
    ("POST", "/tokenize", {"prompt": "def f(x): return x"}),
    ("GET", "/v1/models", None),
    ("GET", "/metrics", None),
    ("GET", "/ready", None),
)


def _wrong(rng: random.Random, number: int) -> tuple[Call, Check]:
    method, path, body, status = rng.choice(WRONG)
    return Call(method, path, body), lambda done: _status(done, status)


def _odd(rng: random.Random, number: int) -> tuple[Call, Check]:
    method, path, body = rng.choice(ODD)
    return Call(method, path, body), lambda done: _status(done, 200)


def _status(done: Exchange, wanted: int) -> str:
    fine = done.failure is None and done.status == wanted
    return "" if fine else f"{done.failure or done.status} instead of {wanted}: {done.body[:200]!r}"


def _chat(rng: random.Random) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Write {rng.randint(0, 999)}."}], "temperature": 0}


def _message(done: Exchange) -> dict[str, Any]:
    body = _parsed(done.body.decode("utf-8", "replace"))
    choices = body.get("choices") if isinstance(body, dict) else None
    return choices[0]["message"] if choices else {}


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except ValueError:
        return None

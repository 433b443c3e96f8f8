"""Constraint fields: what they become, what is refused, and that nothing of it reaches the engine unchecked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InvalidRequestError
from engine.grammar import make_vocabulary
from engine.grammar_compiler import CompiledGrammars
from engine.tokenizer import Tokenizer
from server.openai.constraint_fields import MAX_CHOICE_CHARS, MAX_CHOICES
from server.openai.constraints import (
    choice_grammar,
    constraint_of,
    json_schema_grammar,
    lark_grammar,
    regex_grammar,
    schema_with_options,
)
from server.openai.limits import DEFAULT_LIMITS
from server.openai.protocol import CompletionRequest
from tests.server.played import Played

Make = Callable[..., Played]
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.fixture(scope="module")
def matches(checkpoint: Path) -> Callable[[str, str], bool]:
    """Whether a text is a whole answer under a grammar."""
    tokenizer = Tokenizer.load(checkpoint)
    grammars = CompiledGrammars(make_vocabulary(tokenizer, 320, [2]))

    def check(grammar: str, text: str) -> bool:
        state = grammars.state(grammar)
        for token in [*tokenizer.encode(text, add_special_tokens=False, parse_special=False), 2]:
            state.accept(token)
        return state.error is None and state.complete

    return check


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        (
            json_schema_grammar(SCHEMA),
            ['{"a":1}', '{ "a": -7 }', '{\n    "a": 1\n}'],
            ['{"a":"1"}', "{}", "", '{"a":1,"b":2}'],
        ),
        (json_schema_grammar({"type": "object"}), ["{}", '{"x": [null, {"y": "é"}]}'], ["[]", "1", '{"a"}']),
        (regex_grammar("[ab]/c+"), ["a/c", "b/ccc"], ["a/", "xa/c", "a/cx"]),
        (choice_grammar(["yes", "no", 'a "b"\\\n']), ["yes", "no", 'a "b"\\\n'], ["", "yesno", "y", "maybe"]),
        (choice_grammar(["a", "ab"]), ["a", "ab"], ["abb", "b"]),
        (lark_grammar('start: "x" start | "y"'), ["y", "xxy"], ["x", "yy"]),
        (
            lark_grammar("start: %json " + json.dumps(schema_with_options(SCHEMA))),
            ['{"a": 1}'],
            ['{"a":' + " " * 99 + "1}"],
        ),
    ],
)
def test_grammars_match_what_they_say(matches, grammar: str, right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not matches(grammar, text)] == []
    assert [text for text in wrong if matches(grammar, text)] == []


@pytest.mark.parametrize("blank", [" " * 200, "\n" * 3, "\t" * 20, "\n" + " " * 200, "\r" * 9])
@pytest.mark.parametrize("where", ['{%s"a":1}', '{"a"%s:1}', '{"a":%s1}', '{"a":1%s}', '{"a":1,%s"b":2}'])
def test_white_space_can_not_go_on(matches, where: str, blank: str) -> None:
    wild = {**SCHEMA, "additionalProperties": True, "x-guidance": {"whitespace_pattern": r"\s+"}}
    for schema in ({"type": "object"}, wild):
        grammar = json_schema_grammar(schema)
        assert matches(grammar, where % "")
        assert matches(grammar, where % "\n    ")
        assert not matches(grammar, where % blank)


@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        ({}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, json_schema_grammar({"type": "object"})),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            json_schema_grammar(SCHEMA),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": False, "description": "d"},
                }
            },
            json_schema_grammar(SCHEMA),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, json_schema_grammar(SCHEMA)),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, json_schema_grammar(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, json_schema_grammar({"type": "object"})),
        ({"structured_outputs": {"regex": "a+"}}, regex_grammar("a+")),
        ({"structured_outputs": {"choice": ["a"], "regex": None}}, choice_grammar(["a"])),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, lark_grammar('start: "a"')),
        (
            {"response_format": {"type": "text"}, "structured_outputs": {"regex": "a"}},
            regex_grammar("a"),
        ),
    ],
)
def test_fields_become_one_grammar(body: dict[str, Any], grammar: str | None) -> None:
    assert constraint_of(CompletionRequest(prompt="a", **body)) == grammar


def test_both_at_once_are_refused() -> None:
    fields = CompletionRequest(
        response_format={"type": "json_object"},  # type: ignore[arg-type]
        structured_outputs={"regex": "a"},  # type: ignore[arg-type]
    )
    with pytest.raises(InvalidRequestError, match="either"):
        constraint_of(fields)


MAX_SCHEMA_DEPTH = DEFAULT_LIMITS.max_nesting
MAX_CONSTRAINT_BYTES = DEFAULT_LIMITS.max_schema_size

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "response_format"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": True}}},
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "x"}}}},
        "response_format",
    ),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"$ref": "#"}}}, "structured_outputs"),
    ({"structured_outputs": {"json": {"$ref": "file:///etc/passwd"}}}, "structured_outputs"),
    ({"structured_outputs": {"json": nested(MAX_SCHEMA_DEPTH)}}, "structured_outputs"),
    ({"structured_outputs": {"json": nested(600)}}, "structured_outputs"),
    ({"structured_outputs": {"json": json.dumps(nested(100))}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"enum": ["x" * MAX_CONSTRAINT_BYTES]}}}, "structured_outputs.json"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": ["a"]}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a" * (MAX_CONSTRAINT_BYTES + 1)}}, "structured_outputs.regex"),
    ({"structured_outputs": {"regex": "é" * (MAX_CONSTRAINT_BYTES // 2 + 1)}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a"] * (MAX_CHOICES + 1)}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a" * (MAX_CHOICE_CHARS + 1)]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a" * MAX_CHOICE_CHARS] * 17}}, "structured_outputs.choice"),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "structured_outputs"),
    ({"structured_outputs": {"grammar": "start: missing"}}, "structured_outputs"),
    ({"structured_outputs": {"grammar": '{"grammars": []}'}}, "structured_outputs"),
    ({"guided_json": SCHEMA}, "guided_json"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_what_is_refused(played: Make, body: dict[str, Any], param: str) -> None:
    server = played()
    for url, prompt in (
        (COMPLETIONS, {"prompt": "a"}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}]}),
    ):
        response = server.ask(url, {**prompt, **body})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), response.text
        assert error["type"] == "invalid_request_error"
        assert len(error["message"]) < 600
        assert server.host.requests == []


def test_old_names_point_to_the_new_one(played: Make) -> None:
    message = played().ask(COMPLETIONS, {"prompt": "a", "guided_regex": "a"}).json()["error"]["message"]
    assert "structured_outputs" in message


def test_over_time_is_a_400_that_says_so(played: Make) -> None:
    server = played(settings={"grammar_timeout": 1e-6})
    response = server.ask(COMPLETIONS, {"prompt": "a", "structured_outputs": {"regex": "[a-z]{5}"}})
    assert response.status_code == 400, response.text
    assert "to compile" in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == "invalid_grammar"


def test_every_choice_of_the_engine_gets_the_grammar(played: Make) -> None:
    server = played()
    body = {"prompt": ["a", "b"], "n": 2, "structured_outputs": {"regex": "hello"}}
    assert server.ask(COMPLETIONS, body).status_code == 200
    assert [request.params.grammar for request in server.host.requests] == [regex_grammar("hello")] * 4
    chat = {"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}
    assert server.ask(CHAT, chat).status_code == 200
    assert [request.params.grammar for request in server.host.requests] == [
        json_schema_grammar({"type": "object"})
    ]

"""Hermes: JSON between marks, and the ways in which models get it wrong."""

import json
from typing import Any

import pytest

from server.openai.tool_parsers.hermes import HermesParser
from tests.server.tool_parsers.reading import Read, every_character, read


def both(text: str) -> Read:
    """Read at once and by characters, which must agree."""
    whole = read(HermesParser, text)
    assert read(HermesParser, text, every_character(text)) == whole
    return whole


def test_arguments_are_passed_on_as_they_were_written() -> None:
    out = both('<tool_call>{"name":"f","arguments":{ "a" : [1, {"b":"}"}] }}</tool_call>')
    assert out.calls == [("f", '{ "a" : [1, {"b":"}"}] }')]


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {"a": "</tool_call>"}, "name": "f"}', {"a": "</tool_call>"}),
        ('{"name": "f", "parameters": {"a": 1}}', {"a": 1}),
        ('{"id": 3, "name": "f", "arguments": {"a": 1}}', {"a": 1}),
        ('{"name": "f", "arguments": {"a": 1}, "id": {"b": [3]}}', {"a": 1}),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"name": "f", "arguments": null}', {}),
        ('{"name": "f"}', {}),
        ('{"name": "\\u0066", "arguments": {"a": "\\ud83d\\ude00"}}', {"a": "😀"}),
        ('{"name": "f", "arguments": {"a": 1}', {"a": 1}),  # a bracket is missing
    ],
)
def test_other_ways_to_write_a_call(body: str, arguments: dict[str, Any]) -> None:
    out = both(f"<tool_call>\n{body}\n</tool_call>")
    assert (out.parsed, out.complete, out.content) == ([("f", arguments)], 1, "")


def test_a_string_in_a_string_is_mended() -> None:
    out = both('<tool_call>{"name": "f", "arguments": {"a": "x\n\ty\\d\\\n"}}</tool_call>')
    assert out.parsed == [("f", {"a": "x\n\ty\\d\\\n"})]


@pytest.mark.parametrize(
    "body",
    [
        *(
            "",
            "hello",
            "[]",
            "{}",
            '{"name": 1}',
            '{"name": "f", "arguments": 7}',
            '{"name": "f", "arguments": [1]}',
        ),
        *(
            '{"name": "f" "arguments"',
            "{'name': 'f'}",
            '{"name": "f", "arguments": "nothing"}',
            "{{}}",
            '{"name"}',
        ),
        '{"arguments": {"a": ' + "9" * 5000 + '}, "name": "f"}',
        '{"arguments": {"a": 1e999}, "name": "f"}',
        '{"arguments": {"a": NaN}, "name": "f"}',
        '{"x": ' + "[" * 300 + "]" * 300 + "}",
    ],
)
def test_what_is_no_call_is_content(body: str) -> None:
    text = f"Look:\n<tool_call>\n{body}\n</tool_call>\nDone."
    out = both(text)
    assert (out.calls, out.content) == ([], text)


def test_json_that_breaks_within_arguments_leaves_the_rest_as_content() -> None:
    out = both('<tool_call>\n{"name": "f", "arguments": {"a": 1,,}}\n</tool_call> bye')
    assert (out.calls, out.complete) == ([("f", '{"a": 1,')], 0)
    assert out.content == ",}}\n</tool_call> bye"


def test_a_call_after_a_broken_one() -> None:
    good = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    out = both(f'<tool_call>{{"name": <tool_call> no{good}')
    assert out.parsed == [("f", {})]
    assert out.content == '<tool_call>{"name": <tool_call> no'


def test_calls_without_closing_marks() -> None:
    one = '<tool_call>{"name": "f", "arguments": {}}'
    out = both(one + "\n" + one + " text")
    assert (len(out.calls), out.complete, out.content) == (2, 2, " text")


def test_half_of_a_surrogate_pair_stays_escaped() -> None:
    for body in (
        '{"name": "f", "arguments": {"a": "\\ud800"}}',
        '{"arguments": {"a": "\\ud800"}, "name": "f"}',
    ):
        out = both(f"<tool_call>{body}</tool_call>")
        assert json.loads(out.calls[0][1]) == {"a": "\ud800"}
        out.calls[0][1].encode()

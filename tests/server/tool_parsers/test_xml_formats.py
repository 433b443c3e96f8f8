"""Qwen3-Coder and IQuest: values between tags, typed by their schema."""

from collections.abc import Sequence
from typing import Any

import pytest

from server.openai.tool_parsers.formats import IQUEST, QWEN3_CODER, ToolFormat
from server.openai.tools import Tool
from tests.server.tool_parsers.reading import Read, every_character, read

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "i": {"type": "integer"},
        "n": {"type": "number"},
        "b": {"type": "boolean"},
        "sn": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "si": {"type": ["string", "integer"]},
        "ref": {"$ref": "#/$defs/Box"},
        "loop": {"$ref": "#/$defs/Loop"},
        "lost": {"$ref": "#/$defs/Nothing"},
        "e": {"enum": ["1", "2"]},
        "m": {"enum": ["a", 1, None]},
        "any": {},
        "odd": {"type": "str"},
    },
    "$defs": {"Box": {"type": "object"}, "Loop": {"$ref": "#/$defs/Loop"}},
}
TOOLS = [Tool("f", None, SCHEMA)]


def both(form: ToolFormat, text: str, tools: Sequence[Tool] = TOOLS) -> Read:
    """Read at once and by characters, which must agree."""
    whole = read(lambda: form.parser(tools), text)
    assert read(lambda: form.parser(tools), text, every_character(text)) == whole
    return whole


@pytest.mark.parametrize("form", [QWEN3_CODER, IQUEST], ids=lambda form: form.name)
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("s", "12", "12"),
        ("s", "", ""),
        ("s", "a\nb\n", "a\nb\n"),
        ("s", '"q\\', '"q\\'),
        ("unknown", "12", "12"),
        ("i", "12", 12),
        ("i", " 12 ", 12),
        ("i", "twelve", "twelve"),
        ("n", "1e2", 100.0),
        ("n", "3", 3),
        ("n", "1e999", "1e999"),
        ("n", "NaN", "NaN"),
        ("n", "9" * 5000, "9" * 5000),
        ("b", "true", True),
        ("b", "False", False),
        ("sn", "null", None),
        ("sn", "12", "12"),
        ("si", "12", 12),
        ("si", "true", "true"),
        ("ref", '{"a": [1]}', {"a": [1]}),
        ("ref", "{'a'", "{'a'"),
        ("loop", "[1]", [1]),
        ("lost", "x", "x"),
        ("e", "1", "1"),
        ("m", "1", 1),
        ("m", "a", "a"),
        ("any", "[1]", [1]),
        ("any", "word", "word"),
        ("odd", "word", "word"),
        ("i", "[" * 100_000, "[" * 100_000),
    ],
)
def test_values_by_their_schema(form: ToolFormat, name: str, text: str, value: Any) -> None:
    assert read(lambda: form.parser(TOOLS), form.write("f", {name: text})).parsed == [("f", {name: value})]


def test_qwen_leaves_tags_out() -> None:
    inner = "<function=f>\n<parameter=i>\n1\n</parameter>\n</function>"
    for text in (
        inner,
        inner + "\n</tool_call>",
        "<tool_call>" + inner,
        "<tool_call>\n<function=f><parameter=i>1</parameter></tool_call>",
    ):
        out = both(QWEN3_CODER, "Now.\n" + text)
        assert (out.parsed, out.complete, out.content) == ([("f", {"i": 1})], 1, "Now."), text


def test_a_value_of_code_keeps_its_tags_and_lines() -> None:
    code = "\n  def f():\n    return '<parameter=x> </function> <tool_call>'\n\n"
    assert both(QWEN3_CODER, QWEN3_CODER.write("f", {"s": code})).parsed == [("f", {"s": code})]
    assert both(IQUEST, IQUEST.write("f", {"s": code})).parsed == [("f", {"s": code})]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "<tool_call>",
            "<tool_call> hello",
            "<tool_call>\n<function f>",
            "<function=",
            "<function=>",
            "<function=a b>",
        ),
        *("<tool_call><parameter=a>", "<tool_call>\n<function=" + "x" * 400 + ">", "<tool_call>" + "<" * 400),
        *("a < b <tool", "<tool_call>{}</tool_call>"),
    ],
)
def test_what_is_no_qwen_call_is_content(text: str) -> None:
    out = both(QWEN3_CODER, text)
    assert (out.calls, out.content) == ([], text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "<iquest_tool_call>",
            "<iquest_tool_call>f",
            "<iquest_tool_call>f<b>",
            "<iquest_tool_call><arg_key>",
        ),
        *("<iquest_tool_call>f g<arg_key>", "<iquest_tool_call>" + "x" * 400 + "</iquest_tool_call>"),
    ],
)
def test_what_is_no_iquest_call_is_content(text: str) -> None:
    out = both(IQUEST, text)
    assert (out.calls, out.content) == ([], text)


def test_strange_text_between_parameters_ends_the_call_as_content() -> None:
    out = both(QWEN3_CODER, "<function=f>\n<parameter=i>\n1\n</parameter>\noops</function>")
    assert (out.calls, out.complete, out.content) == ([("f", '{"i": 1')], 0, "\noops</function>")
    out = both(IQUEST, "<iquest_tool_call>f<arg_key>i</arg_key>oops</iquest_tool_call>")
    assert (out.calls, out.complete) == ([("f", "{")], 0)
    assert out.content == "<arg_key>i</arg_key>oops</iquest_tool_call>"
    out = both(IQUEST, "<iquest_tool_call>f<arg_key>" + "x" * 400 + "</arg_key>")
    assert out.content == "<arg_key>" + "x" * 400 + "</arg_key>"


def test_iquest_allows_white_space() -> None:
    text = "<iquest_tool_call>f\n<arg_key>i</arg_key>\n<arg_value>1</arg_value>\n</iquest_tool_call>"
    assert both(IQUEST, text).parsed == [("f", {"i": 1})]


def test_a_typed_value_that_is_cut_off_is_kept() -> None:
    out = both(QWEN3_CODER, "<function=f>\n<parameter=i>\n12")
    assert (out.calls, out.complete) == ([("f", '{"i": 12')], 0)

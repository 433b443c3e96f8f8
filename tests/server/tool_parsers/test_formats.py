"""What holds for the parsers of all formats: calls come back as written, however the text is cut; nothing is lost."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.openai.tool_parsers.formats import FORMATS, HERMES, IQUEST, QWEN3_CODER, ToolFormat, format_of
from server.openai.tool_parsers.parser import ToolCallParser
from server.openai.tools import Tool
from tests.server.tool_parsers.reading import NOISE, cuts_of, every_character, read
from tools.demo_model.layout import CHAT_TEMPLATE

SCHEMA = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "i": {"type": "integer"},
        "n": {"type": "number"},
        "b": {"type": "boolean"},
        "l": {"type": "array"},
        "o": {"type": "object"},
        "sn": {"type": ["string", "null"]},
        "any": {},
    },
}
TOOLS = [Tool("f", "does it", SCHEMA), Tool("ns.g-2", None)]
EACH = pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))

# Everything a closing tag can't be confused with.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda text: "</" not in text)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
arguments_of_f = st.fixed_dictionaries(
    {},
    optional={
        "s": texts,
        "i": st.integers(),
        "n": st.floats(allow_nan=False, allow_infinity=False),
        "b": st.booleans(),
        "l": st.lists(values, max_size=3),
        "o": st.dictionaries(texts, values, max_size=3),
        "sn": st.none() | texts.filter(lambda text: text.strip() not in ("null", "None")),
        "unknown": texts,
    },
)
calls = st.lists(st.tuples(st.just("f"), arguments_of_f) | st.just(("ns.g-2", {})), min_size=1, max_size=3)
contents = st.text("ab<\n é", max_size=8).map(lambda text: text.strip())


def maker(form: ToolFormat) -> Callable[[], ToolCallParser]:
    return lambda: form.parser(TOOLS)


@EACH
@given(st.data(), calls, contents)
@settings(max_examples=150, deadline=None)
def test_written_calls_are_read_whatever_the_pieces(
    form: ToolFormat, data: st.DataObject, calls: list[tuple[str, dict[str, Any]]], content: str
) -> None:
    text = "\n".join([*([content] if content else []), *(form.write(name, one) for name, one in calls)])
    out = read(maker(form), text, data.draw(cuts_of(text)))
    assert out.parsed == calls
    assert out.complete == len(calls)
    assert out.content == content
    assert out.calls == read(maker(form), text).calls


@EACH
@given(st.data(), NOISE, calls)
@settings(max_examples=300, deadline=None)
def test_any_text_reads_the_same_in_any_pieces(
    form: ToolFormat, data: st.DataObject, noise: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    name, arguments = calls[0]
    at = data.draw(st.integers(0, len(noise)))
    text = noise[:at] + form.write(name, arguments)[: data.draw(st.integers(0, 60))] + noise[at:]
    whole = read(maker(form), text)
    assert read(maker(form), text, data.draw(cuts_of(text))) == whole
    assert read(maker(form), text, every_character(text)) == whole


@EACH
@given(NOISE)
@settings(max_examples=300, deadline=None)
def test_text_without_a_call_is_content_to_the_letter(form: ToolFormat, noise: str) -> None:
    out = read(maker(form), noise)
    if not out.calls:
        assert out.content == noise


@EACH
@given(st.data(), NOISE)
@settings(max_examples=200, deadline=None)
def test_no_letter_is_lost_in_broken_calls(form: ToolFormat, data: st.DataObject, noise: str) -> None:
    """Words of a cut call and of the noise after it are in the content, the name or the arguments."""
    written = form.write("f", {"s": "alpha", "i": 12345})
    text = written[: data.draw(st.integers(0, len(written)))] + noise + " omega"
    out = read(maker(form), text)
    everything = out.content + "".join(name + arguments for name, arguments in out.calls)
    for word in ("alpha", "12345", "omega"):
        assert (word in everything) == (word in text)


@EACH
def test_arguments_of_strings_come_while_they_are_written(form: ToolFormat) -> None:
    parser = form.parser(TOOLS)
    text = form.write("f", {"s": "a" * 50 + "b" * 50})
    before, after = text[: text.index("b")], text[text.index("b") :]
    first = parser.push(before)
    assert sum(len(getattr(piece, "text", "")) for piece in first) >= 50
    assert parser.push(after[:60])
    parser.push(after[60:])
    assert parser.finish() == []


@EACH
def test_what_stands_around_calls(form: ToolFormat) -> None:
    call = form.write("f", {"i": 1})
    out = read(maker(form), f"\n\nFirst.\n\n{call}\n\n{call}\n and then\n{call}\n")
    assert out.content == "\n\nFirst.\n and then"
    assert out.parsed == [("f", {"i": 1})] * 3
    assert read(maker(form), f"\n{call}\n").content == ""
    assert read(maker(form), " plain \n").content == " plain \n"


@EACH
def test_a_call_cut_off_in_its_arguments_has_no_end(form: ToolFormat) -> None:
    text = form.write("f", {"s": "alpha"})
    out = read(maker(form), text[: text.index("pha")])
    assert (out.calls, out.complete, out.content) == ([("f", '{"s": "al')], 0, "")


@EACH
def test_a_cut_closing_mark_does_no_harm(form: ToolFormat) -> None:
    text = form.write("f", {"i": 1})
    out = read(maker(form), text[:-3])
    assert out.parsed == [("f", {"i": 1})] if form is not IQUEST else out.calls == [("f", '{"i": 1')]


@EACH
def test_names_of_unknown_functions_are_the_clients_business(form: ToolFormat) -> None:
    assert read(maker(form), form.write("other", {"x": "1"})).parsed == [("other", {"x": "1"})]


@EACH
@pytest.mark.parametrize("name", ["", "a b", "x" * 300, 'a"b', "a\nb"])
def test_impossible_names_are_content(form: ToolFormat, name: str) -> None:
    text = form.write(name, {})
    out = read(maker(form), text)
    assert (out.calls, out.content) == ([], text)


@EACH
def test_long_texts_take_linear_time(form: ToolFormat) -> None:
    text = form.write("f", {"s": "<" * 60_000, "l": ["</"] * 5_000})
    out = read(maker(form), text, range(0, len(text), 7))
    assert out.complete == 1


def test_a_template_shows_its_format() -> None:
    assert format_of(CHAT_TEMPLATE) is HERMES
    assert format_of("…<tool_call>\n<function=example>…") is QWEN3_CODER
    assert format_of("{{ '<|iquest_assistant|>' }}") is IQUEST
    assert format_of("<tool_call>{name}<arg_key>") is None  # GLM's
    assert format_of("[TOOL_CALLS]") is None

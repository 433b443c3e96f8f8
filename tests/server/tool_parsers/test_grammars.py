"""What a grammar lets through, its format's parser reads as calls that satisfy the schema: random walks by masks."""

import itertools
import random
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, grammar_from

from engine.errors import InvalidRequestError
from server.openai.tool_parsers.formats import FORMATS, HERMES, IQUEST, QWEN3_CODER, ToolFormat
from server.openai.tool_parsers.grammars import calls_grammar
from server.openai.tools import Tool
from tests.server.tool_parsers.reading import read

BYTES = LLTokenizer("byte")
MAX_STEPS = 4000
BOX = {
    "type": "object",
    "properties": {"k": {"type": "boolean"}},
    "required": ["k"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "i": {"type": "integer", "minimum": 3, "maximum": 99},
        "short": {"anyOf": [{"type": "string", "minLength": 2, "maxLength": 4}, {"type": "null"}]},
        "e": {"enum": ["a", 'é\n"x', 3, None, ""]},
        "boxes": {"type": "array", "items": {"$ref": "#/$defs/Box"}},
        "path": {"type": "string", "pattern": "^a/[0-9]+$"},
        "any": {},
    },
    "required": ["s", "e"],
    "$defs": {"Box": BOX},
}
TOOLS = [Tool("f", None, SCHEMA), Tool("ns.g-2", None)]
# Without these a random walk never leaves a string.
ENDS = [
    *("\n</parameter>", "</arg_value>", "</function>", "</think>", "\n</tool_call>", "</iquest_tool_call>"),
    *("}", "]", '"', "1", "true"),
]
EACH = pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))


def walk(grammar: str, seed: int, tokenizer: LLTokenizer = BYTES) -> str:
    """One random text of a grammar."""
    rng, out = random.Random(seed), b""
    matcher = LLMatcher(tokenizer, grammar_from("lark", grammar))
    assert not matcher.is_error(), matcher.get_error()
    for _ in range(MAX_STEPS):
        if matcher.is_stopped() or (matcher.is_accepting() and rng.random() < 0.5):
            return out.decode(errors="replace")
        end = list(rng.choice(ENDS).encode())
        if rng.random() < 0.6 and matcher.validate_tokens(end) == len(end):
            chosen = end
        else:
            mask = matcher.compute_bitmask()
            allowed = [byte for byte in range(256) if mask[byte // 8] >> (byte % 8) & 1]
            printable = [byte for byte in allowed if 32 <= byte < 127 or byte == 10]
            chosen = [rng.choice(printable or allowed)]
        assert matcher.consume_tokens(chosen), matcher.get_error()
        out += bytes(chosen)
    raise AssertionError("the walk found no end")


def satisfies(arguments: dict[str, Any]) -> None:
    """A hand-written check of SCHEMA."""
    assert {"s", "e"} <= set(arguments) <= set(SCHEMA["properties"])
    assert isinstance(arguments["s"], str)
    assert arguments["e"] in SCHEMA["properties"]["e"]["enum"]
    if "i" in arguments:
        assert type(arguments["i"]) is int
        assert 3 <= arguments["i"] <= 99
    short = arguments.get("short")
    assert short is None or 2 <= len(short) <= 4
    assert all(set(box) == {"k"} and type(box["k"]) is bool for box in arguments.get("boxes", []))
    path = arguments.get("path", "a/1")
    assert path.startswith("a/")
    assert path[2:].isdigit()


@EACH
@pytest.mark.parametrize("many", [False, True])
def test_whatever_passes_is_valid_calls(form: ToolFormat, many: bool) -> None:
    grammar = calls_grammar(form.call, TOOLS, {}, many=many)
    most = 0
    for seed in range(30):
        text = walk(grammar, seed)
        out = read(lambda: form.parser(TOOLS), text)
        assert out.content == "", text
        assert out.complete == len(out.calls) >= 1
        most = max(most, out.complete)
        for name, arguments in out.parsed:
            assert name in ("f", "ns.g-2")
            if name == "f":
                satisfies(arguments)
            else:
                assert arguments == {}
    assert (most > 1) == many


@EACH
def test_what_the_server_writes_itself_passes(form: ToolFormat) -> None:
    grammar = calls_grammar(form.call, TOOLS, {}, many=True)
    calls = [("f", {"s": "a\nb", "i": 12, "short": None, "e": "", "any": {"x": [1.5, "y"]}}), ("ns.g-2", {})]
    for one in (calls[:1], calls[1:], calls):
        text = "\n".join(form.write(name, arguments) for name, arguments in one)
        matcher = LLMatcher(BYTES, grammar_from("lark", grammar))
        tokens = list(text.encode())
        assert matcher.validate_tokens(tokens) == len(tokens), text
        assert matcher.consume_tokens(tokens)
        assert matcher.is_accepting()


@EACH
def test_reasoning_may_come_before(form: ToolFormat) -> None:
    grammar = calls_grammar(form.call, TOOLS, {}, many=False, thinking="</think>")
    for seed in range(10):
        _, mark, calls = walk(grammar, seed).partition("</think>\n\n")
        assert mark
        assert read(lambda: form.parser(TOOLS), calls).complete == 1


class _Marked:
    """A byte vocabulary with marks as special tokens behind it."""

    is_tokenizer_wrapper = True
    eos_token_id, bos_token_id = 256, None

    def __init__(self, marks: tuple[str, ...]) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [b"<eos>", *(mark.encode() for mark in marks)]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


@EACH
@pytest.mark.parametrize("think", [None, "</think>"])
def test_marks_that_are_special_tokens(form: ToolFormat, think: str | None) -> None:
    marks = (*form.marks, "</think>")
    special = {mark: 257 + index for index, mark in enumerate(marks)}
    grammar = calls_grammar(form.call, TOOLS, special, many=False, thinking=think)
    tokenizer = LLTokenizer(_Marked(marks))  # type: ignore[arg-type]
    text = ("thought</think>\n\n" if think else "") + form.write("f", {"s": "x\ny", "i": 7, "e": 3})
    ids = []
    while text:
        mark = next((mark for mark in marks if text.startswith(mark)), None)
        ids += [special[mark]] if mark else list(text[0].encode())
        text = text[len(mark or text[0]) :]
    matcher = LLMatcher(tokenizer, grammar_from("lark", grammar))
    assert not matcher.is_error(), matcher.get_error()
    assert matcher.validate_tokens(ids) == len(ids)
    assert matcher.consume_tokens(ids)
    assert matcher.is_accepting()


def test_names_that_a_format_cant_spell() -> None:
    odd = {"type": "object", "properties": {"a>b": {"type": "string"}}}
    for form in (QWEN3_CODER, IQUEST):
        grammar = calls_grammar(form.call, [Tool("f", None, odd)], {}, many=False)
        assert "a>b" not in grammar
        with pytest.raises(InvalidRequestError, match="can't be forced"):
            calls_grammar(form.call, [Tool("f", None, {**odd, "required": ["a>b"]})], {}, many=False)
    grammar = calls_grammar(HERMES.call, [Tool("f", None, {**odd, "required": ["a>b"]})], {}, many=False)
    assert read(lambda: HERMES.parser([]), walk(grammar, 1)).complete == 1


def test_quotes_and_slashes_are_only_text() -> None:
    nasty = ['"', "\\", "/", "\n", "start: x", "</", "%json {", "é"]
    schema = {
        "type": "object",
        "properties": {"e": {"enum": nasty}, '"\\/': {"enum": ["x"]}},
        "required": ["e"],
    }
    for form, seed in itertools.product(FORMATS.values(), range(8)):
        text = walk(calls_grammar(form.call, [Tool("f", None, schema)], {}, many=False), seed)
        ((_, arguments),) = read(lambda form=form: form.parser([Tool("f", None, schema)]), text).parsed
        assert arguments["e"] in nasty


@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ("^[/]x$", {"/x"}),
        (r"^\\/a$", {r"\/a"}),
        ("^a\nb$", {"a\nb"}),
        ("^a|b$", {"a", "b"}),
        (r"^a\$$", {"a$"}),
    ],
)
@pytest.mark.parametrize("form", [QWEN3_CODER, IQUEST], ids=lambda form: form.name)
def test_patterns(form: ToolFormat, pattern: str, values: set[str]) -> None:
    tool = Tool(
        "f",
        None,
        {"type": "object", "properties": {"s": {"type": "string", "pattern": pattern}}, "required": ["s"]},
    )
    for seed in range(5):
        text = walk(calls_grammar(form.call, [tool], {}, many=False), seed)
        ((_, arguments),) = read(lambda: form.parser([tool]), text).parsed
        assert arguments["s"] in values

"""Token ids and text that break tokenizers, decoders and stop strings."""

import json
from collections.abc import Iterator
from typing import Any

from tools.attack.answers import text_of
from tools.attack.case import (
    BAD,
    CHAT,
    COMPLETIONS,
    EITHER,
    GOOD,
    TOO_LARGE,
    Case,
    Row,
    crossed,
    posted,
    values,
)
from tools.attack.target import Dialect, Target
from tools.attack.wire import Exchange

MEGABYTE = 1_000_000
QUICK = 20.0
"""Seconds for a text that some tokenizers take minutes for."""


def ids(target: Target) -> Iterator[Case]:
    hostile: list[Any] = [[-1], [2**31], [2**63], [10**30], [[5], [-1]]]
    if target.vocab_size:
        hostile += [[target.vocab_size], [5, target.vocab_size]]
    return values(target, "H21", "prompt", hostile, apis=(COMPLETIONS,))


def prompt_types(target: Target) -> Iterator[Case]:
    hostile: list[Any] = [
        *([True, False], [1.0], [[1], ["a"]], [1, "a"], ["a", 1], [[]], [], "", [""], None, ..., 7, True),
        *({"a": 1}, [None], [[[1]]], [[1, True]]),
    ]
    for value in hostile:
        name = "prompt left out" if value is ... else f"prompt={value!r}"
        yield from crossed(target, "H22", name, {"prompt": value}, apis=(COMPLETIONS,))


def surrogates(target: Target) -> Iterator[Case]:
    for text in ("\ud800", "a\udfffb", "\udc00\ud800"):
        yield from values(target, "H23", "prompt", [text], apis=(COMPLETIONS,))
        messages = [{"role": "user", "content": text}]
        yield from crossed(target, "H23", f"content={text!r}", {"messages": messages}, apis=(CHAT,))
        yield from values(target, "H23", "user", [text])
        yield from values(target, "H23", "max_tokens", [text])


def encodings(target: Target) -> Iterator[Case]:
    text = json.dumps({"prompt": "a", "max_tokens": 4, "model": target.model})
    for name in ("utf-16", "utf-16-be", "utf-32"):
        yield posted(target, "H24", name, COMPLETIONS, text.encode(name))
    yield posted(target, "H24", "byte order mark", COMPLETIONS, b"\xef\xbb\xbf" + text.encode(), EITHER)
    for name, raw in (("invalid", b"\xff\xfe"), ("overlong", b"\xc0\xaf"), ("surrogate", b"\xed\xa0\x80")):
        content = text.encode().replace(b'"a"', b'"' + raw + b'"')
        yield posted(target, "H24", name, COMPLETIONS, content)
    charset = "application/json; charset=utf-16"
    yield posted(target, "H24", "charset utf-16", COMPLETIONS, text.encode("utf-16"), Content_Type=charset)


def odd_text(target: Target) -> Iterator[Case]:
    small = ["a\0b", "\x1b[2J\x1b]0;owned\x07", "\u202eabc\u202c", "\ufeff\ufffe\uffff", "👩‍👩‍👧‍👦" * 20]
    large = ["a" + "\u0301" * 100_000, "👩‍👩‍👧‍👦" * 40_000]
    for texts, want in ((small, GOOD), (large, TOO_LARGE | GOOD)):
        yield from values(target, "H25", "prompt", texts, want, apis=(COMPLETIONS,))
        for text in texts:
            messages = [{"role": "user", "content": text}]
            yield from crossed(
                target, "H25", f"content={text[:8]!r}", {"messages": messages}, want, apis=(CHAT,)
            )


def quadratic_text(target: Target) -> Iterator[Case]:
    for name, unit in (
        ("a", "a"),
        ("space", " "),
        ("newline", "\n"),
        ("tab", "\t"),
        ("no space", "abcdefghij"),
    ):
        text = unit * (MEGABYTE // len(unit))
        for path, fields in (
            (COMPLETIONS, {"prompt": text}),
            (CHAT, {"messages": [{"role": "user", "content": text}]}),
        ):
            want = TOO_LARGE | GOOD
            yield from crossed(target, "H26", f"1 MB of {name}", fields, want, apis=(path,), seconds=QUICK)


def special_tokens(target: Target) -> Iterator[Case]:
    for text in ("<|im_end|>", "<|endoftext|>", "<|image_pad|>", "</s><s>", "<|fim_middle|>" * 50, "<unk>"):
        yield from values(target, "H27", "prompt", [text], GOOD, apis=(COMPLETIONS,))
        messages = [{"role": "user", "content": text}]
        yield from crossed(target, "H27", f"content={text[:20]}", {"messages": messages}, GOOD, apis=(CHAT,))


def _exactly(target: Target, text: str) -> dict[str, Any]:
    """Fields that leave the model no other answer than `text`."""
    if target.dialect is Dialect.LLAMA_CPP:
        return {"grammar": f'root ::= "{text}"', "max_tokens": 200}
    return {"structured_outputs": {"choice": [text]}, "max_tokens": 200}


def split_characters(target: Target) -> Iterator[Case]:
    text = "é漢字🎉👩‍👩‍👧‍👦ñ"

    def check(done: Exchange) -> str | None:
        got = text_of(done)
        return None if got == text else f"the answer is {got!r:.60}, not what the grammar says"

    return crossed(target, "H28", "characters of many tokens", _exactly(target, text), GOOD, check=check)


def near_calls(target: Target) -> Iterator[Case]:
    texts = ['<tool_call>{"a":' * 6000, "<tool_call>" * 9000, "<think>" * 14_000, "<function=" * 10_000]
    for text in texts:
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": text},
            {"role": "user", "content": "go on"},
        ]
        fields = {"messages": messages}
        want = TOO_LARGE | GOOD
        yield from crossed(target, "H29", f"100 KB of {text[:11]}", fields, want, apis=(CHAT,), seconds=QUICK)


def stop_across_chunks(target: Target) -> Iterator[Case]:
    def check(done: Exchange) -> str | None:
        got = text_of(done)
        return None if got == "abc" else f"the answer is {got!r:.60} instead of what comes before the stop"

    for stop in ("XYZ", ["XYZW", "XYZ"], "XY"):
        fields = {**_exactly(target, "abcXYZdef"), "stop": stop}
        yield from crossed(target, "H30", f"stop={stop}", fields, GOOD, apis=(COMPLETIONS,), check=check)


def detokenized(target: Target) -> Iterator[Case]:
    for name, tokens in (
        ("negative", [-1]),
        ("large", [2**40]),
        ("bool", [True]),
        ("text", "abc"),
        ("1,000,000", [5] * 1_000_000),
        ("nested", [[5]]),
    ):
        content = json.dumps({"model": target.model, "tokens": tokens}).encode()
        yield posted(target, "H31", name, "/detokenize", content, BAD)
    for name, fields in (
        ("1 MB", {"prompt": "a" * MEGABYTE}),
        ("surrogate", {"prompt": "\ud800"}),
        ("number", {"prompt": 7}),
        ("nothing", {}),
        ("both", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
    ):
        content = json.dumps({"model": target.model, **fields}).encode()
        yield posted(target, "H31", name, "/tokenize", content, GOOD if name == "1 MB" else BAD)


EVERYONE_BUT_OTHER = frozenset({Dialect.LOOPSERVE, Dialect.LLAMA_CPP, Dialect.VLLM})
OURS_AND_VLLM = frozenset({Dialect.LOOPSERVE, Dialect.VLLM})

ROWS = (
    Row("H21", "prompt ids that don't exist", ids),
    Row("H22", "prompts of other types, empty, missing", prompt_types),
    Row("H23", "lone surrogates", surrogates),
    Row("H24", "bodies in other encodings, invalid UTF-8", encodings),
    Row("H25", "NUL, escape sequences, overrides, 100,000 combining marks, 1 MB of emoji", odd_text),
    Row("H26", "a megabyte of one character, or without a space", quadratic_text),
    Row("H27", "special tokens spelled by the user", special_tokens),
    Row("H28", "answers whose characters span tokens", split_characters, EVERYONE_BUT_OTHER),
    Row("H29", "100 KB of almost tool calls in the conversation", near_calls),
    Row("H30", "a stop string across tokens and chunks", stop_across_chunks, EVERYONE_BUT_OTHER),
    Row("H31", "`/tokenize` and `/detokenize` with what doesn't exist", detokenized, OURS_AND_VLLM),
)

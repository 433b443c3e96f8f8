"""Grammars over real vocabularies: exact bytes, end tokens where they belong, hostile grammars in bounded time."""

import re
import time
from pathlib import Path

import pytest
from llguidance import LLMatcher

from engine.errors import InvalidRequestError
from engine.grammar import MAX_ERROR_CHARS, compile_grammar, make_vocabulary
from engine.grammar_compiler import BackgroundCompiler, CompiledGrammars
from engine.grammar_state import GrammarState
from engine.tokenizer import Tokenizer
from tests.engine.grammars import BOUNDED, allowed, is_bounded, json_grammar, regex, walk
from tests.engine.test_tokenizer import (  # noqa: F401
    byte_fallback_dir,
    byte_level_dir,
    sentencepiece_dir,
)
from tests.make_checkpoint import make_checkpoint, random_config

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
KINDS = ["byte_level_dir", "byte_fallback_dir", "sentencepiece_dir", "demo"]
TEXTS = ["abc", "  two spaces", "a\n\tb", "naïve 日本語 🙂", '{"a": 1}', "</s><|im_start|>"]


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.load(DEMO if request.param == "demo" else request.getfixturevalue(request.param))


def begin(tokenizer: Tokenizer, grammar: str, *, extra: int = 37) -> GrammarState:
    """A state over a vocabulary that is wider than the tokenizer's."""
    vocabulary = make_vocabulary(tokenizer, tokenizer.vocab_size + extra, [2])
    return CompiledGrammars(vocabulary).state(grammar)


def exactly(text: str) -> str:
    return regex(re.sub(r"(\W)", lambda match: f"\\x{{{ord(match[1]):x}}}", text))


@pytest.mark.parametrize("text", TEXTS)
def test_a_forced_text_comes_out_byte_for_byte(tokenizer: Tokenizer, text: str) -> None:
    for seed in range(3):
        state = begin(tokenizer, exactly(text))
        ids = walk(state, seed)
        assert state.complete
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
        assert not any(map(tokenizer.is_special, ids))


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizers_own_spelling_is_allowed_wherever_anything_is(tokenizer: Tokenizer, text: str) -> None:
    state = begin(tokenizer, regex("(?s:.*)"))
    for token in tokenizer.encode(text, add_special_tokens=False, parse_special=False):
        assert state.allow(())
        assert token in allowed(state)
        state.accept(token)
        assert state.error is None


def test_forced_text_is_spelled_as_in_the_middle_of_an_answer(sentencepiece_dir: Path) -> None:  # noqa: F811
    tokenizer = Tokenizer.load(sentencepiece_dir)
    ids = walk(begin(tokenizer, exactly("return")), 0)
    assert len(ids) < len("return")
    assert b"".join(map(tokenizer.token_bytes, ids)) == b"return"


def test_ids_without_a_token_are_never_allowed(tokenizer: Tokenizer) -> None:
    for grammar in (regex("(?s:.*)"), LLMatcher.grammar_from_lark("start: <[*]>")):
        state = begin(tokenizer, grammar)
        assert state.allow(())
        assert allowed(state)
        assert all(tokenizer.token_bytes(token) for token in allowed(state))


def test_end_tokens_are_allowed_exactly_where_the_grammar_may_end(tokenizer: Tokenizer) -> None:
    ends = {2, tokenizer.eos_token_id} - {None}
    state = begin(tokenizer, regex("a{2,3}"))
    assert set(state.end_ids) == ends
    (one,) = {token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes(token) == b"a"} - {
        token for token in range(tokenizer.vocab_size) if is_byte_token(tokenizer, token)
    }
    for may_end in (False, False, True):
        assert state.allow(())
        assert (ends <= set(allowed(state))) == may_end
        assert not (ends & set(allowed(state))) or may_end
        state.accept(one)
    assert state.complete
    assert state.error is None


def is_byte_token(tokenizer: Tokenizer, token: int) -> bool:
    """Of two ids for one byte, the fallback one."""
    same = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"a"]
    return len(same) > 1 and token == same[0]


def test_both_ids_of_a_byte_are_allowed(byte_fallback_dir: Path) -> None:  # noqa: F811
    tokenizer = Tokenizer.load(byte_fallback_dir)
    state = begin(tokenizer, regex("[ab]x"))
    assert state.allow(())
    assert [tokenizer.token_bytes(i) for i in allowed(state)].count(b"a") == 2


def test_choosing_an_end_token_completes(tokenizer: Tokenizer) -> None:
    state = begin(tokenizer, regex("a*"))
    state.allow(())
    state.accept(state.end_ids[-1])
    assert state.complete
    assert state.error is None


def test_unwanted_tokens_stay_out_until_nothing_else_is_left(tokenizer: Tokenizer) -> None:
    state = begin(tokenizer, regex("(a|aa)?"))
    assert state.allow(state.end_ids)
    assert not set(state.end_ids) & set(allowed(state))
    while not state.complete and state.allow(state.end_ids):
        state.accept(allowed(state)[0])
    assert state.complete


def test_a_token_outside_the_mask_is_an_error_of_this_state_only(tokenizer: Tokenizer) -> None:
    vocabulary = make_vocabulary(tokenizer, tokenizer.vocab_size, [2])
    grammars = CompiledGrammars(vocabulary)
    broken, fine = grammars.state(regex("ab")), grammars.state(regex("ab"))
    broken.accept(tokenizer.vocab_size - 1)
    assert broken.error
    assert not broken.allow(())
    assert not broken.complete
    assert fine.allow(())
    assert grammars.state(regex("ab")).allow(())


@pytest.mark.parametrize("end_ids", [[], [2], [2, 4]])
def test_models_with_none_one_and_several_end_tokens(tmp_path: Path, end_ids: list[int]) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    tokenizer = Tokenizer.load(tmp_path)
    tokenizer.eos_token_id = None
    for seed in range(20):
        state = CompiledGrammars(make_vocabulary(tokenizer, 320, end_ids)).state(regex("[ab]{0,3}"))
        ids = walk(state, seed)
        assert state.complete
        assert all(token < 320 for token in ids)


def test_a_vocabulary_without_the_bytes_fails_alone(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    narrow = make_vocabulary(Tokenizer.load(tmp_path), 40, [2])
    with pytest.raises(InvalidRequestError, match="no token of this model"):
        compile_grammar(narrow, regex("~é"))


@pytest.mark.parametrize("seed", range(20))
def test_random_walks_through_a_schema_are_valid(tokenizer: Tokenizer, seed: int) -> None:
    state = begin(tokenizer, json_grammar(BOUNDED))
    ids = [token for token in walk(state, seed) if token not in state.end_ids]
    assert state.complete
    assert is_bounded(b"".join(map(tokenizer.token_bytes, ids)).decode())


@pytest.mark.parametrize(
    "grammar",
    [
        "",
        "{",
        "{}",
        '{"grammars": []}',
        '{"grammars": [{"json_schema": 5}]}',
        regex("(" * 500),
        regex("a{9999999999}"),
        regex("(?=a)b"),
        LLMatcher.grammar_from_lark("start: missing"),
        LLMatcher.grammar_from_lark("start: " + "(" * 2000 + '"x"' + ")" * 2000),
        json_grammar({"type": "strin"}),
        json_grammar({"type": 7}),
        json_grammar({"properties": 5}),
        json_grammar({"$ref": "http://example.invalid/schema.json"}),
        json_grammar({"$ref": "#"}),
        json_grammar(
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
        ),
        json_grammar({"type": "string", "format": "unheard-of"}),
        json_grammar({"type": "string", "minLength": 5, "maxLength": 1}),
        json_grammar({"not": {}}),
    ],
)
def test_what_does_not_compile_is_refused_in_few_words(grammar: str) -> None:
    vocabulary = make_vocabulary(Tokenizer.load(DEMO), 4096, [0])
    with pytest.raises(InvalidRequestError) as refusal:
        compile_grammar(vocabulary, grammar)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < MAX_ERROR_CHARS + 50


def test_a_refusal_repeats_little_of_a_long_grammar() -> None:
    vocabulary = make_vocabulary(Tokenizer.load(DEMO), 4096, [0])
    with pytest.raises(InvalidRequestError) as refusal:
        compile_grammar(vocabulary, LLMatcher.grammar_from_regex("(" * 5000))
    assert "(" * 201 not in str(refusal.value)


@pytest.mark.parametrize(
    "pattern",
    ["(a|aa)*b", "(a|aa|ab){1000}{1000}", "((a{1000}){1000}){1000}", "(.*a.{20}){5}", r"\w{1,999}" * 20],
)
def test_hostile_regexes_end_soon_one_way_or_the_other(pattern: str) -> None:
    vocabulary = make_vocabulary(Tokenizer.load(DEMO), 4096, [0])
    began = time.monotonic()
    try:
        state = CompiledGrammars(vocabulary).state(regex(pattern))
        walk(state, 0, most=20) if state.allow(()) else None
    except (InvalidRequestError, AssertionError):
        pass
    assert time.monotonic() - began < 5


def test_compiled_grammars_are_bounded_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def counted(vocabulary: object, grammar: str) -> LLMatcher:
        compiled.append(grammar)
        return compile_grammar(vocabulary, grammar)  # type: ignore[arg-type]

    monkeypatch.setattr("engine.grammar_compiler.compile_grammar", counted)
    grammars = CompiledGrammars(make_vocabulary(Tokenizer.load(DEMO), 4096, [0]), capacity=2)
    for pattern in ("a", "b", "a", "c", "a", "b"):
        grammars.state(regex(pattern))
    assert compiled == [regex(pattern) for pattern in "abcb"]


def test_the_background_compiler_survives_what_fails() -> None:
    loads = []

    def load():
        loads.append(1)
        if len(loads) == 1:
            raise RuntimeError("tokenizer gone")
        return make_vocabulary(Tokenizer.load(DEMO), 4096, [0])

    compiler = BackgroundCompiler(load)
    assert isinstance(compiler.compile(regex("a")).exception(10), RuntimeError)
    assert isinstance(compiler.compile("nonsense").exception(10), InvalidRequestError)
    assert compiler.compile(regex("a")).result(10).allow(())
    assert len(loads) == 2

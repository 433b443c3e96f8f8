"""Tokenizers of both families, made here: decoding against the libraries, streaming against decoding."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from engine.errors import InvalidRequestError, TokenizerError
from engine.fim_tokens import FimTokens
from engine.tokenizer import Tokenizer
from tests.make_checkpoint import CHAT_TEMPLATE, make_checkpoint, random_config

TEXTS = [
    "def f(x):\n    return x + 1\n",
    "naïve café 日本語 🙂🚀",
    "  leading and  double spaces",
    "import os, sys\n\n",
] * 20


@pytest.fixture(scope="session")
def byte_level_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("byte_level")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_config(directory, bos_token="<s>", eos_token={"content": "</s>"}, chat_template=CHAT_TEMPLATE)
    return directory


@pytest.fixture(scope="session")
def byte_fallback_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama's conversion of SentencePiece to tokenizer.json."""
    directory = tmp_path_factory.mktemp("byte_fallback")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcé", "▁a", "ab", "▁▁"]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab, merges=[("▁", "a"), ("a", "b"), ("▁", "▁")], unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:3]])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def sentencepiece_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    added = {
        "320": {"content": "<|im_end|>", "special": True},
        "325": {"content": "<tool>", "special": False},
    }
    _write_config(directory, added_tokens_decoder=added)
    return directory


@pytest.fixture(scope="session")
def byte_level(byte_level_dir: Path) -> Tokenizer:
    return Tokenizer.load(byte_level_dir)


@pytest.fixture(scope="session")
def byte_level_library(byte_level_dir: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(byte_level_dir / "tokenizer.json"))


@pytest.fixture(scope="session", params=["byte_level_dir", "byte_fallback_dir", "sentencepiece_dir"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.load(request.getfixturevalue(request.param))


def _write_config(directory: Path, **values: Any) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(values))


def _streamed(tokenizer: Tokenizer, prompt: list[int], ids: list[int], skip: bool) -> str:
    stream = tokenizer.stream_decoder(prompt, skip)
    return "".join([stream.push(token_id) for token_id in ids]) + stream.flush()


@settings(max_examples=200, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_streamed_text_equals_decoded_text(tokenizer: Tokenizer, data: st.DataObject, skip: bool) -> None:
    # Up to a few ids that no token has: a model's embedding is often wider than its tokenizer.
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=20))
    text = tokenizer.decode(ids, skip)
    assert _streamed(tokenizer, [], ids, skip) == text
    joined = b"".join(tokenizer.token_bytes(i) for i in ids if not (skip and tokenizer.is_special(i)))
    whole = joined.decode(errors="replace")
    assert text in (whole, whole.removeprefix(" "))


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30))
def test_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, parse_special=False)
    assert tokenizer.decode(ids) == text  # "▁" itself is left out: SentencePiece can't tell it from a space


@settings(max_examples=300, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_byte_level_decoding_is_the_librarys(
    byte_level: Tokenizer, byte_level_library: tokenizers.Tokenizer, data: st.DataObject, skip: bool
) -> None:
    ids = data.draw(st.lists(st.integers(0, byte_level.vocab_size - 1), max_size=20))
    assert byte_level.decode(ids, skip) == byte_level_library.decode(ids, skip_special_tokens=skip)


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab é🙂\n<>", max_size=20), continued=st.text("ab é🙂", max_size=20))
def test_streaming_continues_a_prompt(tokenizer: Tokenizer, text: str, continued: str) -> None:
    prompt, ids = tokenizer.encode(text), tokenizer.encode(text + continued)
    if text and ids[: len(prompt)] == prompt:
        rest = ids[len(prompt) :]
        assert tokenizer.decode(prompt) + _streamed(tokenizer, prompt, rest, True) == tokenizer.decode(ids)


def test_a_character_is_streamed_when_it_is_complete(byte_level: Tokenizer) -> None:
    stream = byte_level.stream_decoder([])
    pushed = [stream.push(byte_level.special_token_id("<s>") or 0)]
    ids = [
        next(i for i in range(byte_level.vocab_size) if byte_level.token_bytes(i) == bytes([b]))
        for b in "é".encode()
    ]
    pushed += [stream.push(token_id) for token_id in ids]
    assert pushed == ["", "", "é"]
    assert stream.push(ids[0]) == ""
    assert stream.flush() == "\ufffd"
    within = byte_level.stream_decoder(ids[:1])
    assert within.push(ids[1]) == "é"


def test_ids_and_markers(byte_level: Tokenizer) -> None:
    assert (byte_level.bos_token_id, byte_level.eos_token_id) == (0, 1)
    assert byte_level.fim == FimTokens(prefix=2, suffix=3, middle=4, ends=(2, 3, 4))
    assert byte_level.special_token_id("<tool>") == byte_level.vocab_size - 1
    assert byte_level.special_token_id("def") is None
    assert byte_level.chat_template == CHAT_TEMPLATE
    assert byte_level.token_text(0) == "<s>"
    assert byte_level.token_bytes(10**6) == byte_level.token_bytes(-1) == b""


def test_special_tokens_are_parsed_added_and_skipped_as_asked(byte_level: Tokenizer) -> None:
    text = "a<|im_start|>b"
    parsed = byte_level.encode(text)
    assert parsed[0] == 0
    assert byte_level.special_token_id("<|im_start|>") in parsed
    assert byte_level.encode(text, add_special_tokens=False) == parsed[1:]
    assert byte_level.decode(parsed) == "ab"
    assert byte_level.decode(parsed, skip_special_tokens=False) == "<s>a<|im_start|>b"
    start = byte_level.special_token_id("<|im_start|>")
    assert start is not None
    stream = byte_level.stream_decoder((), shown=frozenset([start]))
    assert "".join(map(stream.push, parsed)) == "a<|im_start|>b"
    literal = byte_level.encode(text, parse_special=False)
    assert byte_level.special_token_id("<|im_start|>") not in literal
    assert byte_level.decode(literal) == text


def test_sentencepiece_model(sentencepiece_dir: Path) -> None:
    tokenizer = Tokenizer.load(sentencepiece_dir)
    library = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_dir / "tokenizer.model"))
    assert tokenizer.encode(TEXTS[0]) == [library.bos_id(), *library.encode(TEXTS[0])]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.vocab_size) == (1, 2, 326)
    assert tokenizer.fim == FimTokens(3, 4, 5, ends=(3, 4, 5))
    assert tokenizer.special_token_id("<|im_end|>") == 320
    assert tokenizer.encode("<|im_end|><tool></s>", add_special_tokens=False) == [320, 325, 2]
    assert tokenizer.decode([320, 325, 2]) == "<tool>"
    assert 320 not in tokenizer.encode("<|im_end|>", parse_special=False)
    assert tokenizer.token_bytes(library.piece_to_id("<0xF0>")) == b"\xf0"
    assert tokenizer.chat_template is None
    for text in TEXTS[:4]:
        assert tokenizer.decode(tokenizer.encode(text)) == library.decode(library.encode(text)) == text


def test_made_checkpoints_have_a_token_for_every_id(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.vocab_size == 320
    assert all(tokenizer.token_bytes(token_id) for token_id in range(320))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.fim is not None
    assert tokenizer.decode(tokenizer.encode("naïve 🙂")) == "naïve 🙂"


def test_template_file_wins_and_default_of_a_list_is_taken(byte_level_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((byte_level_dir / "tokenizer.json").read_bytes())
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    _write_config(tmp_path, chat_template=named)
    assert Tokenizer.load(tmp_path).chat_template == "plain"
    _write_config(tmp_path, chat_template=named[:1])
    assert Tokenizer.load(tmp_path).chat_template is None
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert Tokenizer.load(tmp_path).chat_template == "from the file"


def test_lone_surrogate_is_the_requests_fault(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="surrogate at character 1"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither tokenizer.json nor tokenizer.model"),
        ({"tokenizer.json": "{"}, "failed at tokenizer.json"),
        ({"tokenizer.json": b"\xff"}, r"Can't read .*tokenizer\.json"),
        ({"tokenizer.model": b"not a model"}, "failed at tokenizer.model"),
        ({"tokenizer_config.json": "[]"}, "must hold a JSON object"),
        ({"tokenizer_config.json": '{"bos_token": "<nope>"}', "tokenizer.json": None}, "bos_token '<nope>'"),
        ({"tokenizer_config.json": '{"chat_template": 3}', "tokenizer.json": None}, "chat_template must be"),
        ({"chat_template.jinja": b"\xff", "tokenizer.json": None}, r"Can't read .*chat_template\.jinja"),
        ({"chat_template.jinja": "x" * (1 << 20) + "y", "tokenizer.json": None}, "larger than"),
    ],
)
def test_bad_files_are_refused(
    byte_level_dir: Path, tmp_path: Path, files: dict[str, str | bytes | None], message: str
) -> None:
    for name, content in files.items():
        data = (byte_level_dir / name).read_bytes() if content is None else content
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_decoder_is_refused(byte_level_dir: Path, tmp_path: Path) -> None:
    source = json.loads((byte_level_dir / "tokenizer.json").read_text())
    for decoder in (None, {"type": "WordPiece", "prefix": "##", "cleanup": True}):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**source, "decoder": decoder}))
        with pytest.raises(TokenizerError, match="decoder step"):
            Tokenizer.load(tmp_path)


def test_malformed_added_token_is_refused(sentencepiece_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((sentencepiece_dir / "tokenizer.model").read_bytes())
    _write_config(tmp_path, added_tokens_decoder={"99999999999": {"content": "x"}})
    with pytest.raises(TokenizerError, match="malformed entry '99999999999'"):
        Tokenizer.load(tmp_path)


def test_a_panic_of_the_library_is_an_error(byte_level_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # pyo3's name; Rust code can't be made to panic on demand
        pass

    def panic(source: str) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr("engine.token_vocabularies.tokenizers.Tokenizer.from_str", panic)
    with pytest.raises(TokenizerError, match=r"failed at tokenizer\.json"):
        Tokenizer.load(byte_level_dir)

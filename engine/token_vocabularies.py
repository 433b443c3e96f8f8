"""The two kinds of tokenizer file behind one small interface: text to ids, and what bytes each id stands for."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import sentencepiece
import tokenizers

from engine.config_fields import Fields, shown
from engine.errors import TokenizerError
from engine.model_directory import read_file, read_text

JSON_FILE, SENTENCEPIECE_FILE = "tokenizer.json", "tokenizer.model"
MAX_JSON_BYTES = 64 << 20
MAX_SENTENCEPIECE_BYTES = 64 << 20
MAX_TOKENS = 1 << 22
SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary(ABC):
    """What `Tokenizer` needs of a library.

    Attributes:
        leading_spaces: spaces at the very start of a decoded text that are not part of it.
    """

    leading_spaces: int

    @abstractmethod
    def encode(self, text: str, add_special_tokens: bool, parse_special: bool) -> list[int]:
        """Ids of valid Unicode text; see `Tokenizer.encode`. Raises `TokenizerError`."""

    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """Bytes per id, empty where an id has no token."""

    @abstractmethod
    def special_ids(self) -> frozenset[int]:
        """Ids that decoding may skip."""

    @abstractmethod
    def special_token_id(self, text: str) -> int | None:
        """Id of the special or added token spelled `text`."""

    @abstractmethod
    def default_id(self, key: str) -> int | None:
        """Id for "bos_token" or "eos_token" where tokenizer_config.json is silent."""


class JsonVocabulary(Vocabulary):
    """`tokenizer.json` through the `tokenizers` library: byte-level BPE, or SentencePiece with byte fallback."""

    def __init__(self, source: str) -> None:
        with _library(JSON_FILE):
            self._tokenizer = tokenizers.Tokenizer.from_str(source)
            # A switch of the instance, so parsing and not parsing need one each: requests run on several threads.
            self._literal = tokenizers.Tokenizer.from_str(source)
            self._literal.encode_special_tokens = True
            for tokenizer in (self._tokenizer, self._literal):
                tokenizer.no_truncation()  # a file made for training may say so; a prompt is never cut or filled up
                tokenizer.no_padding()
            decoder = self._tokenizer.decoder
            written = None if decoder is None else json.loads(decoder.__getstate__())
            self._added = {
                token_id: (token.content, token.special)
                for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
            }
        self._decoder = _read_decoder(written)
        self.leading_spaces = self._decoder.leading_spaces

    @classmethod
    def load(cls, model_dir: Path) -> "JsonVocabulary":
        """Raises `TokenizerError` if the file is too big, malformed, or of a kind not implemented."""
        return cls(read_text(model_dir, JSON_FILE, MAX_JSON_BYTES, TokenizerError))

    def encode(self, text: str, add_special_tokens: bool, parse_special: bool) -> list[int]:
        tokenizer = self._tokenizer if parse_special else self._literal
        with _library("encoding"):
            # `encode` holds the GIL, so that a long text would stop every thread; a batch of one doesn't, and without
            # offsets it is faster, too.
            (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return list(encoding.ids)

    def token_bytes(self) -> list[bytes]:
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        table = _empty_table(max(vocab.values(), default=-1) + 1)
        for token, token_id in vocab.items():
            if self._decoder.byte_level:
                table[token_id] = _byte_level_bytes(token)
            else:
                table[token_id] = _piece_bytes(token, self._decoder.byte_fallback)
        return table

    def special_ids(self) -> frozenset[int]:
        return frozenset(token_id for token_id, (_, special) in self._added.items() if special)

    def special_token_id(self, text: str) -> int | None:
        return next((token_id for token_id, (content, _) in self._added.items() if content == text), None)

    def default_id(self, key: str) -> int | None:
        return None


class SentencePieceVocabulary(Vocabulary):
    """`tokenizer.model` through the sentencepiece package, with the added tokens of tokenizer_config.json.

    Text between special tokens is encoded piece by piece, each with SentencePiece's own leading space, and bos is
    put in front unless `add_bos_token` is false: what transformers' Python tokenizers of this family do.
    """

    def __init__(self, model: bytes, config: Fields) -> None:
        with _library(SENTENCEPIECE_FILE):
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
            self._size: int = self._model.get_piece_size()
            # Asked of the model, since the setting (add_dummy_prefix) has no accessor.
            self.leading_spaces = 1 if self._model.encode("a", out_type=str)[0].startswith(SPACE) else 0
        self._control = {
            token_id: self._model.id_to_piece(token_id)
            for token_id in range(self._size)
            if self._model.is_control(token_id)
        }
        self._added, added_special = _added_tokens(config)
        self._special = frozenset(self._control) | {self._model.unk_id()} | added_special
        # By falling length, so that of two spellings that start alike the longer one is found.
        spelled = {text: token_id for token_id, text in (self._control | self._added).items()}
        self._spelled = dict(sorted(spelled.items(), key=lambda item: -len(item[0])))
        self._split = re.compile("(" + "|".join(map(re.escape, self._spelled)) + ")") if spelled else None
        self._add_bos = config.boolean("add_bos_token", True) and self._model.bos_id() >= 0

    @classmethod
    def load(cls, model_dir: Path, config: Fields) -> "SentencePieceVocabulary":
        """Raises `TokenizerError` if the file is too big or malformed."""
        data = read_file(model_dir, SENTENCEPIECE_FILE, MAX_SENTENCEPIECE_BYTES, TokenizerError)
        return cls(data, config)

    def encode(self, text: str, add_special_tokens: bool, parse_special: bool) -> list[int]:
        ids = [self._model.bos_id()] if add_special_tokens and self._add_bos else []
        parts = self._split.split(text) if parse_special and self._split else [text]
        with _library("encoding"):
            for index, part in enumerate(parts):
                if index % 2:  # re.split puts what the group matched at odd places
                    ids.append(self._spelled[part])
                elif part:
                    ids.extend(self._model.encode(part))
        return ids

    def token_bytes(self) -> list[bytes]:
        table = _empty_table(max(self._size, max(self._added, default=-1) + 1))
        for token_id in range(self._size):
            piece = self._model.id_to_piece(token_id)
            literal = token_id in self._control
            table[token_id] = (
                piece.encode() if literal else _piece_bytes(piece, self._model.is_byte(token_id))
            )
        for token_id, text in self._added.items():
            table[token_id] = text.encode()
        return table

    def special_ids(self) -> frozenset[int]:
        return self._special

    def special_token_id(self, text: str) -> int | None:
        if text in self._spelled:
            return self._spelled[text]
        # A user-defined symbol is a plain piece to this library; nobody asks here for an ordinary word.
        token_id: int = self._model.piece_to_id(text)
        return None if token_id == self._model.unk_id() else token_id

    def default_id(self, key: str) -> int | None:
        token_id: int = self._model.bos_id() if key == "bos_token" else self._model.eos_id()
        return token_id if token_id >= 0 else None


def _added_tokens(config: Fields) -> tuple[dict[int, str], set[int]]:
    """Tokens that tokenizer_config.json adds (id to text), and which of them are special."""
    entries = config.values.get("added_tokens_decoder") or {}
    added: dict[int, str] = {}
    special: set[int] = set()
    for key, entry in entries.items() if isinstance(entries, dict) else ():
        text = entry.get("content") if isinstance(entry, dict) else None
        if not (
            re.fullmatch(r"[0-9]{1,7}", key, re.ASCII)
            and int(key) < MAX_TOKENS
            and isinstance(text, str)
            and text
        ):
            raise TokenizerError(f"{config.where}: added_tokens_decoder has a malformed entry {shown(key)}.")
        added[int(key)] = text
        if entry.get("special") is True:
            special.add(int(key))
    return added, special


@dataclass(frozen=True)
class _Decoder:
    """What tokenizer.json's decoder does, all its steps being known ones."""

    byte_level: bool = False
    byte_fallback: bool = False
    leading_spaces: int = 0


def _read_decoder(decoder: object) -> _Decoder:
    sequence = Fields("decoder", decoder if isinstance(decoder, dict) else {})
    steps = sequence.values.get("decoders") if sequence.values.get("type") == "Sequence" else [decoder]
    read = _Decoder()
    for step in steps if isinstance(steps, list) else [steps]:
        match step:
            case {"type": "ByteLevel"}:
                read = replace(read, byte_level=True)
            case {"type": "ByteFallback"}:
                read = replace(read, byte_fallback=True)
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                read = replace(read, leading_spaces=read.leading_spaces + start)
            case {"type": "Fuse"} | {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}:
                pass  # what joining the bytes of pieces does anyway
            case _:
                raise TokenizerError(
                    f"tokenizer.json: decoder step {shown(step)} is not implemented; "
                    "byte-level BPE and SentencePiece are."
                )
    return read


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, from character to byte."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


_BYTE_OF = _byte_level_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    """As the library decodes: through the alphabet if every character is in it, else the text itself."""
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:
        return token.encode()


def _piece_bytes(piece: str, byte_fallback: bool) -> bytes:
    match = _BYTE_TOKEN.fullmatch(piece) if byte_fallback else None
    return bytes([int(match[1], 16)]) if match else piece.replace(SPACE, " ").encode()


def _empty_table(size: int) -> list[bytes]:
    if size > MAX_TOKENS:
        raise TokenizerError(f"The tokenizer has ids up to {size - 1}, at most {MAX_TOKENS} ids are allowed.")
    return [b""] * size


@contextmanager
def _library(doing: str) -> Iterator[None]:
    """Turn any failure of the native libraries into `TokenizerError`.

    A panic in Rust code arrives as pyo3's PanicException, which has no importable name and is no `Exception`.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"The tokenizer library failed at {doing}: {shown(str(error))}.") from None
        raise

"""Text to token ids and back, from `tokenizer.json` or `tokenizer.model`. Torch-free; never code from a checkpoint.

Decoding is ours: a token is its bytes, text is the UTF-8 of the bytes in a row. The libraries decode byte-fallback
tokens by runs, so with them a text already streamed could change (`<0x33>` is "3", until an invalid byte follows);
bytes through an incremental UTF-8 decoder can't, and logprobs need the exact bytes anyway.
"""

import codecs
from collections.abc import Sequence
from pathlib import Path

from engine.config_fields import Fields, shown
from engine.errors import InvalidRequestError, TokenizerError
from engine.fim_tokens import find_fim_tokens
from engine.model_directory import has_file, read_json_object, read_text
from engine.token_vocabularies import (
    JSON_FILE,
    SENTENCEPIECE_FILE,
    JsonVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)

MAX_CONFIG_BYTES = 4 << 20
MAX_TEMPLATE_BYTES = 1 << 20
CONFIG_FILE, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"


class Tokenizer:
    """One model's tokenizer; safe to use from several threads.

    Attributes:
        vocab_size: highest token id + 1; the model's embedding may be wider.
        bos_token_id: beginning of a text, or None.
        eos_token_id: the tokenizer's own end of a text, or None; the model may stop at more.
        pad_token_id: the tokenizer's padding, which nothing here needs but clients ask for, or None.
        fim: fill-in-the-middle markers, or None where the vocabulary has none.
        chat_template: Jinja source, or None where the model has none.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        chat_template: str | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._bytes = vocabulary.token_bytes()
        self._special = vocabulary.special_ids()
        self.vocab_size = len(self._bytes)
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.chat_template = chat_template
        self.fim = find_fim_tokens(self.special_token_id)

    @classmethod
    def load(cls, model_dir: Path) -> "Tokenizer":
        """Load from a model directory; `tokenizer.json` wins over `tokenizer.model`.

        Raises:
            TokenizerError: neither file is there, or one is malformed, too big or of a kind not implemented.
        """
        config = _read_config(model_dir)
        vocabulary: Vocabulary
        if has_file(model_dir, JSON_FILE):
            vocabulary = JsonVocabulary.load(model_dir)
        elif has_file(model_dir, SENTENCEPIECE_FILE):
            vocabulary = SentencePieceVocabulary.load(model_dir, config)
        else:
            raise TokenizerError(f"{model_dir} holds neither {JSON_FILE} nor {SENTENCEPIECE_FILE}.")
        return cls(
            vocabulary,
            bos_token_id=_named_id(config, "bos_token", vocabulary),
            eos_token_id=_named_id(config, "eos_token", vocabulary),
            chat_template=_chat_template(model_dir, config),
            pad_token_id=_pad_id(config, vocabulary),
        )

    def encode(self, text: str, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            add_special_tokens: put what the tokenizer puts around a text (such as bos).
            parse_special: text that spells a special token becomes that token; False for untrusted text.

        Raises:
            InvalidRequestError: the text holds a lone surrogate, which no encoding has.
            TokenizerError: the tokenizer itself failed.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"The text is not valid Unicode: a lone surrogate at character {error.start}."
            ) from None
        return self._vocabulary.encode(text, add_special_tokens, parse_special)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of some ids; invalid UTF-8 becomes U+FFFD, ids without a token become nothing."""
        stream = self.stream_decoder((), skip_special_tokens)
        return "".join([stream.push(token_id) for token_id in ids]) + stream.flush()

    def token_bytes(self, token_id: int) -> bytes:
        """Exact bytes that a token stands for; the spelling for special tokens, empty for an id without a token."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def token_text(self, token_id: int) -> str:
        """A token's bytes as text, U+FFFD where they aren't whole characters."""
        return self.token_bytes(token_id).decode(errors="replace")

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves this token out."""
        return token_id in self._special

    def special_token_id(self, text: str) -> int | None:
        """Id of the special or added token spelled `text`, or None."""
        return self._vocabulary.special_token_id(text)

    def stream_decoder(
        self,
        prompt_ids: Sequence[int],
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> "StreamDecoder":
        """A decoder for what follows `prompt_ids`; with no prompt its text in all equals `decode`'s.

        Args:
            shown: special tokens that are text even if special tokens are skipped.
        """
        hidden = self._special - shown if skip_special_tokens else frozenset()
        return StreamDecoder(self, self._vocabulary.leading_spaces, prompt_ids, hidden)


class StreamDecoder:
    """Decodes tokens as they come; text once returned never changes.

    Bytes of an unfinished character are withheld until it is complete or `flush` is called.
    """

    # A prompt can end within a character; its last bytes are in at most so many byte-carrying tokens.
    _PROMPT_TAIL = 8

    def __init__(
        self, tokenizer: Tokenizer, leading_spaces: int, prompt_ids: Sequence[int], hidden: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        prompt = [data for data in map(self._visible_bytes, prompt_ids) if data]
        self._utf8.decode(b"".join(prompt[-self._PROMPT_TAIL :]))
        # SentencePiece puts a space before a text; only one at the very start is not part of it.
        self._spaces_to_drop = 0 if prompt else leading_spaces

    def push(self, token_id: int) -> str:
        """The text that this token completes, possibly empty."""
        return self._at_start(self._utf8.decode(self._visible_bytes(token_id)))

    def flush(self) -> str:
        """What was withheld, with U+FFFD for the unfinished character. The stream has ended."""
        return self._at_start(self._utf8.decode(b"", final=True))

    def _visible_bytes(self, token_id: int) -> bytes:
        if token_id in self._hidden:
            return b""
        return self._tokenizer.token_bytes(token_id)

    def _at_start(self, text: str) -> str:
        while self._spaces_to_drop and text:
            if text[0] != " ":
                self._spaces_to_drop = 0
            else:
                text = text[1:]
                self._spaces_to_drop -= 1
        return text


def _read_config(model_dir: Path) -> Fields:
    there = has_file(model_dir, CONFIG_FILE)
    values = read_json_object(model_dir, CONFIG_FILE, MAX_CONFIG_BYTES, TokenizerError) if there else {}
    return Fields(CONFIG_FILE, values)


def _named_id(config: Fields, key: str, vocabulary: Vocabulary) -> int | None:
    """Id of the token named by `bos_token` and the like: a string, or an object with `content`."""
    value = config.values.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return vocabulary.default_id(key)
    token_id = vocabulary.special_token_id(value) if isinstance(value, str) else None
    if token_id is None:
        raise TokenizerError(f"{config.where}: {key} {shown(value)} is not a token of the vocabulary.")
    return token_id


def _pad_id(config: Fields, vocabulary: Vocabulary) -> int | None:
    """Id of the padding token; none where it is not named or unknown, as no answer depends on it."""
    value = config.values.get("pad_token")
    if isinstance(value, dict):
        value = value.get("content")
    return vocabulary.special_token_id(value) if isinstance(value, str) else None


def _chat_template(model_dir: Path, config: Fields) -> str | None:
    """`chat_template.jinja`, else tokenizer_config's template: a text, or a list of which "default" is meant."""
    if has_file(model_dir, TEMPLATE_FILE):
        return read_text(model_dir, TEMPLATE_FILE, MAX_TEMPLATE_BYTES, TokenizerError)
    value = config.values.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEMPLATE_BYTES:
        raise TokenizerError(
            f"{config.where}: chat_template must be a text of at most {MAX_TEMPLATE_BYTES} bytes."
        )
    return value

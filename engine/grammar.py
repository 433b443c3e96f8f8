"""Grammars over a model's tokens: the vocabulary as llguidance sees it, and compiling within bounds.

Torch-free: the API process's trial worker and the engine compile the same texts in the same way. A grammar's text is
what llguidance's `LLMatcher` takes: a JSON object with one or more grammars.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from engine.errors import InvalidRequestError
from engine.tokenizer import Tokenizer

MAX_ERROR_CHARS = 200  # the compiler repeats the grammar
TRIAL_STACK_BYTES = 4 << 20
COMPILE_STACK_BYTES = 16 << 20
"""Stack of the engine's compiling thread. More than a trial's, so that what a trial survived can't overflow it."""

LIMITS = LLParserLimits(initial_lexer_fuel=100_000, max_lexer_states=20_000, verbose_errors=False)
"""llguidance's own bounds on work per token and on size, but for two that hostile regexes use up: with its fuel for
building the lexer `((a{1000}){1000}){1000}` takes 3 s and 300 MB, with ours 0.15 s; a lexer state takes 1 to 2 kB."""

MASK_WORD_BYTES = 4

SPECIAL_MARKER = b"\xff"
"""llguidance puts this byte before special tokens' spellings. It occurs in no UTF-8 text."""

# Encoders of the SentencePiece kind put a space before a text. Behind a line feed, which is in no piece with other
# characters, a text is encoded as in the middle of an answer.
_GUARDS = ("", "\n")


class _TokenTable:
    """What `LLTokenizer` asks of a tokenizer: each id's bytes, and ids of text that a grammar leaves no choice about.

    Attributes:
        tokens: bytes per id, empty for ids that must never be chosen.
    """

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: Sequence[int]) -> None:
        special = [i for i in range(size) if tokenizer.is_special(i) and tokenizer.token_bytes(i)]
        hidden = frozenset(special)
        self.tokens = [
            b"" if data[:1] == SPECIAL_MARKER and i not in hidden else data
            for i, data in enumerate(map(tokenizer.token_bytes, range(size)))
        ]
        self.special_token_ids = special
        self.eos_token_id = end_ids[0] if end_ids else None
        self.bos_token_id = tokenizer.bos_token_id
        self._tokenizer = tokenizer
        self._plain = {data: i for i, data in enumerate(self.tokens) if data and i not in hidden}
        self._longest = max(map(len, self._plain), default=0)

    def __call__(self, text: str) -> list[int]:
        """Ids whose bytes are exactly those of `text`, as the model was taught to spell it if possible."""
        wanted = text.encode()
        for guard in _GUARDS:
            ids = self._tokenizer.encode(guard + text, add_special_tokens=False, parse_special=False)
            start, missing = len(ids), len(wanted)
            while start > 0 and missing > 0:
                start -= 1
                missing -= len(self._bytes(ids[start]))
            if b"".join(map(self._bytes, ids[start:])) == wanted:
                return ids[start:]
        return self._greedy(wanted)

    def _bytes(self, token_id: int) -> bytes:
        return self.tokens[token_id] if token_id < len(self.tokens) else b""

    def _greedy(self, text: bytes) -> list[int]:
        """Longest tokens first; ends where the vocabulary has nothing to go on with."""
        ids: list[int] = []
        start = 0
        while start < len(text):
            stop = min(len(text), start + self._longest)
            while stop > start and text[start:stop] not in self._plain:
                stop -= 1
            if stop == start:
                break
            ids.append(self._plain[text[start:stop]])
            start = stop
        return ids


@dataclass(frozen=True)
class Vocabulary:
    """A model's token ids as grammars see them.

    Attributes:
        tokens: llguidance's view; one id wider than `size` for a model without end tokens.
        size: width of the embedding.
        end_ids: tokens that end an answer; a grammar allows them exactly where it may end.
        known: which ids stand for something; no other may be chosen. One bit per id as in llguidance's masks.
    """

    tokens: LLTokenizer
    size: int
    end_ids: tuple[int, ...]
    known: bytes


def make_vocabulary(tokenizer: Tokenizer, size: int, end_ids: Iterable[int]) -> Vocabulary:
    """The vocabulary of a model.

    Args:
        size: width of the embedding; ids that the tokenizer doesn't know are never allowed.
        end_ids: the model's end tokens; the tokenizer's own is added.
    """
    own = tokenizer.eos_token_id
    ends = dict.fromkeys(i for i in (*end_ids, *(() if own is None else (own,))) if i < size)
    table = _TokenTable(tokenizer, size, tuple(ends))
    tokens = LLTokenizer(table, eos_token=list(ends) or None)  # type: ignore[arg-type]
    known = bytearray(MASK_WORD_BYTES * -(-tokens.vocab_size // (8 * MASK_WORD_BYTES)))
    for i in range(size):
        known[i // 8] |= bool(table.tokens[i] or i in ends) << i % 8
    return Vocabulary(tokens, size, tuple(ends), bytes(known))


def compile_grammar(vocabulary: Vocabulary, grammar: str) -> LLMatcher:
    """A matcher before the first token, with the first mask, the slowest one, already worked out.

    Lets go of the GIL meanwhile. Copies of the matcher are cheap and know what it knows.

    Raises:
        InvalidRequestError: the grammar is malformed, not implemented, beyond a limit, or no token can begin an answer.
    """
    matcher = LLMatcher(vocabulary.tokens, grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise InvalidRequestError(f"The grammar can't be used: {error_of(matcher)}.")
    return matcher


def error_of(matcher: LLMatcher) -> str:
    """Why a matcher failed: one line without the text that the grammar itself could put there at length."""
    text = " ".join(matcher.get_error().replace("<non-verbose/>", "").split()).rstrip(".")
    return _REASONS.get(text, text[:MAX_ERROR_CHARS])


_REASONS = {
    "NoExtensionBias": "no token of this model goes on from here",
    "LexerTooComplex": "it is too complex",
    "ParserTooComplex": "it is too complex",
}

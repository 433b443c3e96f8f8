"""Log-probabilities in the two shapes of OpenAI's API."""

from dataclasses import dataclass, field
from typing import Any

from engine.messages import TokenLogprob
from engine.tokenizer import StreamDecoder, Tokenizer

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON can't say."""


@dataclass(slots=True)
class CompletionLogprobs:
    """Collects completion logprobs of one choice.

    Attributes:
        decoder: of the choice's text. Lengths of single tokens don't add up to it: a character may need several.
        offset: where the next token's text begins in the choice's text, whatever is withheld for stop strings.
    """

    tokenizer: Tokenizer
    decoder: StreamDecoder
    offset: int = 0
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(self, token_id: int, entry: TokenLogprob | None) -> None:
        """Append one token; `entry` is None for a prompt's first token, which nothing predicts."""
        self.tokens.append(_name(self.tokenizer, token_id))
        self.token_logprobs.append(None if entry is None else _number(entry.logprob))
        self.top_logprobs.append(None if entry is None else _top(self.tokenizer, entry))
        self.text_offset.append(self.offset)
        self.offset += len(self.decoder.push(token_id))

    def take(self) -> dict[str, Any]:
        """What was collected since the last call, as OpenAI's object."""
        out = {
            "text_offset": self.text_offset,
            "token_logprobs": self.token_logprobs,
            "tokens": self.tokens,
            "top_logprobs": self.top_logprobs,
        }
        self.tokens, self.token_logprobs, self.top_logprobs, self.text_offset = [], [], [], []
        return out


def loop_logprobs(tokens: list[list[float]]) -> list[list[float]]:
    """Per token what each loop would have given it, with numbers that JSON has."""
    return [[_number(logprob) for logprob in loops] for loops in tokens]


def loop_tokens(tokenizer: Tokenizer, tokens: list[list[int]]) -> list[list[str]]:
    """Per token the one that each loop found most probable, written as in `CompletionLogprobs.tokens`."""
    return [[_name(tokenizer, token) for token in loops] for loops in tokens]


def chat_logprobs(tokenizer: Tokenizer, entries: list[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's chat object: ``{"content": [{token, logprob, bytes, top_logprobs}]}``."""
    content = []
    for entry in entries:
        top = [_chat_entry(tokenizer, token, logprob) for token, logprob in entry.top]
        content.append({**_chat_entry(tokenizer, entry.token_id, entry.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _top(tokenizer: Tokenizer, entry: TokenLogprob) -> dict[str, float]:
    """Best first, the token itself always among them with the identical number."""
    top: dict[str, float] = {}
    for token, logprob in [*entry.top, (entry.token_id, entry.logprob)]:
        text = _name(tokenizer, token)
        top[text] = max(top.get(text, LEAST_LOGPROB), _number(logprob))
    return top


def _name(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; for part of a character its bytes, as OpenAI writes them, so that no two look the same."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _chat_entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": tokenizer.token_text(token),
        "logprob": _number(logprob),
        "bytes": list(tokenizer.token_bytes(token)),
    }


def _number(logprob: float) -> float:
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB  # also for what is not a number

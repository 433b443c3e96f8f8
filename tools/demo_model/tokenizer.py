"""The demo model's tokenizer: byte-level BPE with a split that keeps indentation together and digits apart."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_call>",
    "</tool_call>",
)
# Markers that are part of an answer's text: decoding must not drop them as it does special tokens.
PLAIN_TOKENS = ("<tool_call>", "</tool_call>")
# The split of the Qwen and GPT-4 families: words with one leading mark, single digits, punctuation runs with the
# line end that follows, line ends with the indentation before them, and runs of blanks except the last.
SPLIT = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train on plain texts. Special tokens take the first ids; every byte has a token, so any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def released_json(tokenizer_json: str) -> str:
    """tokenizer.json with PLAIN_TOKENS as added tokens that are not special (the trainer makes all of them special)."""
    data = json.loads(tokenizer_json)
    for token in data["added_tokens"]:
        token["special"] = token["content"] not in PLAIN_TOKENS
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"

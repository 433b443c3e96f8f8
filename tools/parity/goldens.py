"""A few numbers of the first reference's logits of each case, which CI compares ours with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.make_checkpoint import random_tensors
from tools.parity.cases import Case

IDS = (9, 77, 180, 311)
EVERY = 3
DIGITS = 5


def golden(case: Case, tokens: list[int], version: str, logits: np.ndarray) -> dict[str, Any]:
    """Logits of a few ids at every third position, and what they are of."""
    positions = list(range(0, len(tokens), EVERY))
    return {
        "family": case.family,
        "title": case.title,
        "reference": f"{case.references[0]} {version}",
        "weights": checksum(random_tensors(case.config, case.seed)),
        "tokens": tokens,
        "positions": positions,
        "ids": list(IDS),
        "logits": [[round(float(logits[at, token]), DIGITS) for token in IDS] for at in positions],
    }


def checksum(tensors: Mapping[str, torch.Tensor]) -> float:
    """Tells whether a seed still gives the same weights."""
    return round(sum(float(tensor.double().abs().sum()) for tensor in tensors.values()), 3)


def write(path: Path, goldens: list[dict[str, Any]]) -> None:
    """One case a line, so that a change can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in goldens)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")

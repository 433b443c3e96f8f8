"""Sample text from the training form, recomputing everything per token: slow and simple, for the card's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.demo_model.network import Network


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token; temperature 0 is greedy. `repetition_penalty` is that of CTRL, 1 is off."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


def next_token(logits: Tensor, context: Sequence[int], sampling: Sampling, generator: torch.Generator) -> int:
    """Choose from the last position's logits [V], given all token ids so far."""
    logits = logits.float()
    seen = torch.tensor(sorted(set(context)))
    penalised = torch.where(
        logits[seen] > 0,
        logits[seen] / sampling.repetition_penalty,
        logits[seen] * sampling.repetition_penalty,
    )
    logits = logits.index_copy(0, seen, penalised)
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    chances, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    chances[chances.cumsum(-1) - chances >= sampling.top_p] = 0.0  # the first token always stays
    return int(order[torch.multinomial(chances, 1, generator=generator)])


@torch.no_grad()
def generate(
    network: Network,
    prompt: Sequence[int],
    count: int,
    stops: Sequence[int],
    sampling: Sampling,
    seed: int = 0,
) -> list[int]:
    """Up to `count` new token ids after `prompt`, without the stop token that may have ended them."""
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt)
    for _ in range(count):
        token = next_token(network(torch.tensor([ids]))[0, -1], ids, sampling, generator)
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]

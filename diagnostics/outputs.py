"""What each loop would predict if it were the last: the logit lens, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from diagnostics.metrics import Sums
from engine.loop_arithmetic import best_tokens
from engine.model import LoopedModel

MOST_SCORES = 1 << 22
"""Logits of a loop that are in memory at once, rows times vocabulary; a few times as many float64."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of one document, on the host; row r - 1 is loop r's, column i what it says after token i about token i + 1.

    Attributes:
        losses: float64 ``[loops, tokens - 1]``, minus the log-probability of the true token.
        ranks: int64, 1 where no token is more probable.
        entropies: float64.
        shifts: float64, KL(p(r) ‖ p(r - 1)); zeros for loop 1.
        best: int64, the most probable token.
    """

    losses: torch.Tensor
    ranks: torch.Tensor
    entropies: torch.Tensor
    shifts: torch.Tensor
    best: torch.Tensor


def predict(model: LoopedModel, normed: Sequence[torch.Tensor], tokens: torch.Tensor) -> Predictions:
    """Put every loop's states through the head, a few positions at a time.

    Args:
        normed: h(1), h(2), … as the head wants them, ``[tokens, hidden]`` each.
        tokens: int64 ``[tokens]``, at least two.
    """
    parts, count = [], max(1, MOST_SCORES // model.config.vocab_size)
    for start in range(0, len(tokens) - 1, count):
        rows = slice(start, min(start + count, len(tokens) - 1))
        targets = tokens[rows.start + 1 : rows.stop + 1]
        parts.append(_predict_rows([model.logits(states[rows]) for states in normed], targets))
    return Predictions(
        *(torch.cat([getattr(part, name.name) for part in parts], dim=1) for name in fields(Predictions))
    )


def add_predictions(sums: Sums, predictions: Predictions) -> None:
    """Add what a document's predictions say."""
    losses, best, ranks = predictions.losses, predictions.best, predictions.ranks
    count = losses.shape[1]
    for row in range(len(losses)):
        loop = row + 1
        sums.add("loss", loop, float(losses[row].sum()), count)
        sums.add("top1", loop, int((ranks[row] == 1).sum()), count)
        sums.add("lens_rank", loop, float(ranks[row].double().sum()), count)
        sums.add("lens_log_rank", loop, float(ranks[row].double().log().sum()), count)
        sums.add("output_entropy", loop, float(predictions.entropies[row].sum()), count)
        if row:
            sums.add("gain", loop, float((losses[row - 1] - losses[row]).sum()), count)
            sums.add("output_shift", loop, float(predictions.shifts[row].sum()), count)
            sums.add("token_change", loop, int((best[row] != best[row - 1]).sum()), count)


def _predict_rows(logits: list[torch.Tensor], targets: torch.Tensor) -> Predictions:
    """Of a few positions: float32 ``[rows, vocab]`` per loop."""
    losses, ranks, entropies, shifts, best = [], [], [], [], []
    before: torch.Tensor | None = None
    index = targets.unsqueeze(1)
    for of_loop in logits:
        logprobs = of_loop.double().log_softmax(dim=1)
        probs = logprobs.exp()
        losses.append(-logprobs.gather(1, index).squeeze(1))
        ranks.append(1 + (of_loop > of_loop.gather(1, index)).sum(dim=1))
        entropies.append(-(probs * logprobs).sum(dim=1))
        shifts.append(
            torch.zeros_like(losses[0]) if before is None else (probs * (logprobs - before)).sum(dim=1)
        )
        best.append(best_tokens(of_loop)[0])
        before = logprobs
    return Predictions(*(torch.stack(part).cpu() for part in (losses, ranks, entropies, shifts, best)))

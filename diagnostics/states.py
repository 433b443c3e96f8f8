"""What loops do to hidden states: steps, their alignment, rank and offset."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from diagnostics.metrics import Sums
from engine.loop_arithmetic import relative_changes, step_sizes

RANK_WINDOW = 256
"""Tokens of a document whose states' rank is taken: its first ones. A rank is at most the number of them."""


def add_states(sums: Sums, kind: str, states: Sequence[torch.Tensor], offset: int) -> None:
    """Add what one kind of states of a document says.

    Args:
        kind: "raw" or "normed".
        states: h(0), h(1), …, ``[tokens, hidden]`` each.
        offset: a loop at position i reads the loop before at i - offset.
    """
    steps: list[torch.Tensor] = []
    for loop, (before, now) in enumerate(pairwise(states), start=1):
        _add_mean(sums, f"relative_step_{kind}", loop, relative_changes(before, now))
        steps = [*steps[-1:], now.double() - before.double()]
        if len(steps) == 2:
            # The first positions of a text have nothing to their left: loop 3 finds there what loop 2 found, and each
            # further loop the same at `offset` positions more. A step of zero has no direction.
            moving = slice((loop - 2) * offset, None)
            _add_mean(sums, f"update_alignment_{kind}", loop, _cosines(steps[0][moving], steps[1][moving]))
        sizes = step_sizes(before, now)
        _add_mean(sums, f"step_size_{kind}", loop, sizes)
        if loop > 1:
            # One more application of what turned h(r - 1) into h(r), with its shift and its embedding.
            _add_mean(sums, f"fixed_point_gap_{kind}", loop - 1, sizes)
            neighbours = step_sizes(before[: len(before) - offset], before[offset:])
            _add_mean(sums, f"offset_cost_{kind}", loop, neighbours)
        sums.add(f"effective_rank_{kind}", loop, float(effective_rank(now[:RANK_WINDOW])), 1)


def effective_rank(matrix: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007) of ``[…, m, n]`` matrices.

    The singular values come from the smaller Gram matrix in float64, so those below 1e-8 of the largest count as 0.

    Returns:
        float64 ``[…]``, from 1 to min(m, n); 0 for a matrix of zeros.
    """
    wide = matrix.double()
    if wide.shape[-2] > wide.shape[-1]:
        wide = wide.mT
    squares = torch.linalg.eigvalsh(wide @ wide.mT)
    noise = squares[..., -1:] * squares.shape[-1] * torch.finfo(torch.float64).eps
    values = torch.where(squares > noise, squares, 0.0).sqrt()
    total = values.sum(dim=-1)
    entropy = torch.special.entr(values / total.clamp(min=1e-300).unsqueeze(-1)).sum(dim=-1)
    return torch.where(total > 0, entropy.exp(), 0.0)


def _cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Per row; not a number where one is zero."""
    return (first * second).sum(dim=1) / (first.norm(dim=1) * second.norm(dim=1))


def _add_mean(sums: Sums, key: str, loop: int, values: torch.Tensor) -> None:
    """Add one value per position; where a zero state or step leaves it undefined, it doesn't count."""
    defined = values[values.isfinite()]
    sums.add(key, loop, float(defined.sum()), len(defined))

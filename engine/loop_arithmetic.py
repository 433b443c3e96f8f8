"""What one loop makes of the one before it, in numbers; for the live samples and for diagnostics alike."""

import torch


def step_sizes(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """How far each row's state has moved: float64 ``[rows]`` of ``[rows, hidden]`` states, Euclidean."""
    return (now.double() - before.double()).norm(dim=1)


def relative_changes(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """The same in lengths of the state before; not finite where that is zero."""
    return step_sizes(before, now) / before.double().norm(dim=1)


def best_tokens(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per row of ``[rows, vocab]`` logits the most probable token, and whether there is one."""
    top = logits.max(dim=1)
    return top.indices, top.values.isfinite()

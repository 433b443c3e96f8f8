"""Grammars' masks put on logits."""

import numpy as np
import torch
from numpy.typing import NDArray


def apply_masks(logits: torch.Tensor, rows: list[int], masks: list[NDArray[np.int32]]) -> None:
    """Set what a mask leaves out to -inf, in place; other rows are not touched.

    Args:
        logits: float32 ``[n, vocab]``.
        rows: the rows that have a mask.
        masks: per such row, int32 words of bits as in `GrammarState.mask`. They go to the device in one copy.
    """
    packed = torch.from_numpy(np.stack(masks).view(np.uint8))
    if logits.device.type == "cuda":
        packed = packed.pin_memory().to(logits.device, non_blocking=True)
    places = torch.arange(8, dtype=torch.uint8, device=logits.device)
    barred = packed.unsqueeze(2).bitwise_right_shift(places).bitwise_and_(1).eq(0).flatten(1)
    for row, left_out in zip(rows, barred[:, : logits.shape[1]], strict=True):
        logits[row].masked_fill_(left_out, -torch.inf)

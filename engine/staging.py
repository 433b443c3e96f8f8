"""Brings a step's tensors to the device in one copy.

A step's inputs are a dozen small int32 tensors; copied one by one they would cost a dozen launches and, from pageable
memory, a dozen waits. They are packed into one pinned buffer instead, and the device tensors are views of one buffer.
"""

from dataclasses import fields, replace
from typing import Any

import torch

from kernels.interface import RowBatch

ALIGNMENT = 32
"""int32 elements; views start at multiples of 128 bytes, a GPU's memory transaction."""

TENSORS = [field.name for field in fields(RowBatch) if field.type is torch.Tensor]
"""Fields of a batch that hold tensors."""


class Staging:
    """Packs and copies.

    The host may be a step ahead of the copy, so every step takes a pinned buffer of its own. PyTorch's allocator keeps
    them, and gives one out again only when the copies from it are done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def upload(self, batch: RowBatch, into: torch.Tensor | None = None) -> RowBatch:
        """The batch on the device; a batch for the CPU is returned as it is.

        Args:
            into: int32 device buffer that takes the data (a CUDA graph's static input); None makes one.
        """
        if self.device.type == "cpu" and into is None:
            return batch
        size = packed_size(batch)
        pinned = torch.empty(size, dtype=torch.int32, pin_memory=self.device.type == "cuda")
        pack(batch, pinned)
        if into is None:
            into = torch.empty(size, dtype=torch.int32, device=self.device)
        into[:size].copy_(pinned, non_blocking=True)
        return unpacked(batch, into)


def packed_size(batch: RowBatch) -> int:
    """int32 elements that `batch` takes in one buffer."""
    return sum(_aligned(getattr(batch, name).numel()) for name in TENSORS)


def pack(batch: RowBatch, buffer: torch.Tensor) -> None:
    """Copy a batch on the host into the first `packed_size` elements of an int32 buffer on the host."""
    start = 0
    for name in TENSORS:
        tensor = getattr(batch, name)
        buffer[start : start + tensor.numel()] = tensor.flatten()
        start += _aligned(tensor.numel())


def unpacked(batch: RowBatch, buffer: torch.Tensor) -> RowBatch:
    """`batch` with its tensors replaced by views of `buffer`, in the order and sizes that `pack` gives them."""
    return replace(batch, **views([getattr(batch, name).shape for name in TENSORS], buffer))


def views(shapes: list[torch.Size], buffer: torch.Tensor) -> dict[str, Any]:
    """Tensors of a batch, by field, as views of a buffer that `pack` filled.

    Args:
        shapes: in the order of `TENSORS`.
    """
    found: dict[str, Any] = {}
    start = 0
    for name, shape in zip(TENSORS, shapes, strict=True):
        found[name] = buffer[start : start + shape.numel()].view(shape)
        start += _aligned(shape.numel())
    return found


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT

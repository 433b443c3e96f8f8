"""The contract between the model and an attention backend, and the tensors that describe a batch of rows.

A backend is chosen once at start-up (`kernels.registry`); the model never asks which one it has.
"""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Paged keys and values of one layer, shared by all loops' block groups.

    Attributes:
        keys: ``[num_blocks, num_kv_heads, block_size, head_dim]``, rotated.
        values: same shape and dtype.
    """

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Where the rows of a step write and what they may read. All tensors are int32 but `slots`, on the host.

    Attributes:
        slots: int64 ``[rows]``: block · block_size + offset where the row's k, v go; -1 writes nothing.
        positions: ``[rows]``.
        loops: ``[rows]``.
        row_starts: ``[sequences + 1]``: rows of sequence s are ``row_starts[s]:row_starts[s + 1]``.
        shared_tables: ``[sequences, most blocks]``: block ids of loop 0 from position 0 on.
        window_tables: ``[sequences, loops - 1, most blocks]``: block ids of each later loop's window.
        window_first: ``[sequences, loops - 1]``: block index (position // block_size) of a window's first block.
        window_floor: ``[sequences, loops - 1]``: first position a window may be read at.
        window: W; a row at position i sees its own loop's ``[max(floor, i - W), i]``.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    loops: torch.Tensor
    row_starts: torch.Tensor
    shared_tables: torch.Tensor
    window_tables: torch.Tensor
    window_first: torch.Tensor
    window_floor: torch.Tensor
    window: int


class AttentionBackend(Protocol):
    """Reads and writes the paged cache of one layer."""

    name: str

    def write(
        self, cache: LayerCache, keys: torch.Tensor, values: torch.Tensor, batch: AttentionBatch
    ) -> None:
        """Scatter rotated keys and values ``[rows, num_kv_heads, head_dim]`` to the rows' slots."""
        ...

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: AttentionBatch
    ) -> torch.Tensor:
        """Gated attention of every row; `write` of the same step comes first.

        Loop 0: ``attn(q, shared ≤ i)``. Loop l ≥ 1: ``g · attn(q, shared ≤ i) + (1 - g) · attn(q, own window)``
        (PLT, arXiv 2510.24824). Scores are scaled by ``1/√head_dim``.

        Args:
            queries: ``[rows, num_heads, head_dim]``, rotated.
            gates: ``[rows, num_heads]``, the weight of the shared part; ignored for loop 0; None if there is one loop.

        Returns:
            ``[rows, num_heads, head_dim]`` in the queries' dtype.
        """
        ...

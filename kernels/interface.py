"""The contract between the model and a kernel backend, and the tensors that describe a batch of rows.

A backend is chosen once at start-up (`kernels.registry`); the model never asks which one it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Paged keys and values of one layer; the blocks of all loops lie in one pool.

    The last block belongs to no sequence: it takes what rows with slot -1 write and is never read.

    Attributes:
        keys: ``[num_blocks + 1, num_kv_heads, block_size, head_dim]``, rotated; uint8 holds e4m3 (`kernels.e4m3`).
            How they lie within a block is the backend's own business.
        values: same shape and dtype.
        key_scales: float32 ``[num_kv_heads]``: what an e4m3 key is multiplied by; None for the other dtypes.
        value_scales: likewise.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None

    @property
    def num_kv_heads(self) -> int:
        return self.keys.shape[1]

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]

    @property
    def head_dim(self) -> int:
        return self.keys.shape[3]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """The rows of a step: what they start from, where they write, what they may read.

    All tensors are int32 on the model's device. A **context** is keys that rows read from position 0 on. Where later
    loops have windows, a sequence has one context, loop 0's keys, for the rows of all its loops; where every loop keeps
    its own keys, each loop of a sequence that has rows has a context of its own. A context's rows are contiguous.

    A **tile** is a run of rows of one context whose attention is computed together: in a decode tile every row is of
    another loop, in any other tile all rows are of one loop at consecutive positions. Decode tiles come first. A
    sequence may have fewer loops than the model; nothing is read of the windows of those it does not have.

    Attributes:
        token_ids, positions, loops: ``[rows]``.
        windows: ``[rows]``: 0 for a row that reads its context only; w ≥ 1 for one that also reads the w-th window
            beside it, and mixes the two by its gate. All 0 if there are no windows, else the row's loop.
        input_slots: ``[rows]``: carry slot with the row's ``H[l-1][i - offset]``; not read for loop 0.
        output_slots: ``[rows]``: carry slot that takes the row's H; -1 for none.
        snapshot_blocks: ``[rows]``: block beside which the row's H is kept; -1 for none.
        cache_slots: ``[rows]``: block · block_size + offset where the row's k, v go; -1 for nowhere.
        tiles: ``[tiles, 3]``: context, first row, last row + 1.
        parts: ``[parts, 2]``: tile and part, the work of a decode split over the context: part 0 is the tile's
            windows, part n > 0 its n-th run of `Tiling.split_keys` keys of the context; tile -1 is padding. Empty if
            the decode tiles are not split.
        part_starts: ``[decode tiles]``: index of each tile's part 0.
        context_tables: ``[contexts, most blocks]``: block ids from position 0 on.
        window_tables: ``[contexts, windows, most blocks]``: block ids of each later loop's window.
        window_first: ``[contexts, windows]``: block index (position // block_size) of a window's first block.
        window_floor: ``[contexts, windows]``: first position a window may be read at.
        logit_rows: ``[wanted]``: rows whose logits are wanted.
        window: W; a row at position i sees its window's ``[max(floor, i - W), i]``.
        num_decode_tiles: how many of the tiles are decode tiles.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    loops: torch.Tensor
    windows: torch.Tensor
    input_slots: torch.Tensor
    output_slots: torch.Tensor
    snapshot_blocks: torch.Tensor
    cache_slots: torch.Tensor
    tiles: torch.Tensor
    parts: torch.Tensor
    part_starts: torch.Tensor
    context_tables: torch.Tensor
    window_tables: torch.Tensor
    window_first: torch.Tensor
    window_floor: torch.Tensor
    logit_rows: torch.Tensor
    window: int
    num_decode_tiles: int

    @property
    def num_windows(self) -> int:
        """Of a context; 0 where each loop has a context of its own, and in a model of one loop."""
        return self.window_first.shape[1]

    @property
    def decode_rows(self) -> int:
        """Most rows of a decode tile."""
        return self.num_windows + 1


@dataclass(frozen=True, slots=True)
class RopeTable:
    """float32 ``[max_len, head_dim / 2]`` each: the rotation of every position."""

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, slots=True)
class HiddenGate:
    """Gate on the layer's input x: ``sigmoid(weight · rms_norm(x; norm) + bias)``.

    Attributes:
        norm: ``[hidden]``. weight: ``[heads, hidden]``. bias: ``[heads]``.
    """

    norm: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class QueryGate:
    """Gate on the rotated query: ``sigmoid(weight[h] · q[h] + bias[h])``.

    Attributes:
        weight: ``[heads, head_dim]``. bias: ``[heads]``.
    """

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a backend wants a batch cut. Constants of the model's shape, so no row's result depends on its batch.

    Attributes:
        tile_rows: most rows of a tile that is not a decode tile.
        split_keys: keys of the context per part of a split decode; None if decode is never split.
        always_splits: decode is split even if every context fits one part.
    """

    tile_rows: int
    split_keys: int | None = None
    always_splits: bool = False


class Linear(Protocol):
    """``y = x · weightᵀ + bias`` for ``[rows, in_features]``."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class KernelBackend(Protocol):
    """Everything a pass does to rows beside the products with weights."""

    def warm_up(self, cache_dtype: torch.dtype) -> None:
        """Compile what can be compiled before there is a model."""
        ...

    def tiling(self, head_dim: int, group: int, decode_rows: int, dtype: torch.dtype) -> Tiling:
        """How batches are to be cut.

        Args:
            group: query heads per KV head.
            decode_rows: most rows of a decode tile, see `RowBatch`.
            dtype: of the queries.
        """
        ...

    def loop_input(
        self,
        embedding: torch.Tensor,
        carries: torch.Tensor,
        batch: RowBatch,
        emb_scale: float,
        hidden_scale: float,
    ) -> torch.Tensor:
        """Input of the stack, ``[rows, hidden]``.

        Loop 0: ``E[token]``. Loop l ≥ 1: ``emb_scale · E[token] + hidden_scale · carries[input_slot]``.

        Args:
            embedding: ``[vocab, hidden]``.
            carries: ``[slots + 1, hidden]``; slot 0 is zero.
        """
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """``x / sqrt(mean(x²) + eps) · weight`` (arXiv 1910.07467) for ``[rows, hidden]``."""
        ...

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``x + delta`` and its `rms_norm`; `x` may be overwritten with the sum."""
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) · up`` for ``[rows, 2 · width]`` holding gate, then up; returns ``[rows, width]``."""
        ...

    def gates(
        self, gate: HiddenGate | QueryGate, x: torch.Tensor, queries: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Weight of the context's part per row and head, float32 ``[rows, heads]``.

        Args:
            x: the layer's input before its norm, ``[rows, hidden]``.
            queries: rotated, ``[rows, heads, head_dim]``.
        """
        ...

    def rotate_and_write(
        self, qkv: torch.Tensor, rope: RopeTable, cache: LayerCache, batch: RowBatch
    ) -> torch.Tensor:
        """Rotate q and k, put k and v into the rows' cache slots.

        Args:
            qkv: ``[rows, (heads + 2 · kv_heads) · head_dim]``: q, then k, then v.

        Returns:
            Rotated queries, ``[rows, heads, head_dim]``.
        """
        ...

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: RowBatch
    ) -> torch.Tensor:
        """Gated attention of every row; `rotate_and_write` of the same step comes first.

        Without a window: ``attn(q, context ≤ i)``. With one: ``g · attn(q, context ≤ i) + (1 - g) · attn(q, window)``
        (PLT, arXiv 2510.24824). Scores are scaled by ``1/√head_dim``.

        Args:
            gates: float32 ``[rows, heads]``; ignored for rows without a window; None if there are no windows.

        Returns:
            ``[rows, heads · head_dim]`` in the queries' dtype.
        """
        ...

    def read_keys(self, cache: LayerCache, blocks: Sequence[int]) -> torch.Tensor:
        """Keys of some blocks, one position after another, whatever they are stored as.

        Not for serving: only who looks at a pass reads keys.

        Args:
            blocks: ids, at least one.

        Returns:
            float32 ``[num_kv_heads, len(blocks) · block_size, head_dim]``, rotated.
        """
        ...

    def keep_hidden(
        self, hidden: torch.Tensor, carries: torch.Tensor, block_hidden: torch.Tensor, batch: RowBatch
    ) -> None:
        """Store the rows' H, ``[rows, hidden]``, in their carry slots and beside the blocks that they complete.

        The last row of `carries` and of `block_hidden` is never read: it takes what rows with -1 write.
        """
        ...

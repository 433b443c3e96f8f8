"""The CPU backend: float32 arithmetic, compiled by numba.

In the cache, the keys of a block lie transposed, ``[head_dim, block_size]``.
"""

import numba
import numpy as np
import torch

from kernels import row_ops
from kernels.cpu_attention import attend, attend_share
from kernels.interface import HiddenGate, LayerCache, QueryGate, RopeTable, RowBatch, Tiling

TILE_ROWS = 16
PARALLEL_WORK = 1 << 15
"""Multiply-adds of an `attend` call from which waking threads pays."""


class CpuBackend:
    """float32 arithmetic; the embedding may be stored in bfloat16."""

    def warm_up(self) -> None:
        """Call every kernel, serial and parallel, on the smallest inputs: seconds once, then numba's cache."""
        row_ops.compile_all()
        cache = LayerCache(torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2))
        zero = torch.zeros(1, dtype=torch.int32)
        batch = RowBatch(
            *(zero,) * 7,
            tiles=torch.tensor([[0, 0, 1]], dtype=torch.int32),
            parts=zero.view(1, 1),
            part_starts=zero,
            shared_tables=zero.view(1, 1),
            window_tables=zero.view(1, 1, 1),
            window_first=zero.view(1, 1),
            window_floor=zero.view(1, 1),
            logit_rows=zero,
            window=0,
            num_decode_tiles=1,
        )
        rope = RopeTable(torch.zeros(1, 1), torch.zeros(1, 1))
        queries = self.rotate_and_write(torch.zeros(1, 6), rope, cache, batch)
        for parallel in (False, True):
            _launch(parallel, cache, queries, torch.zeros(1, 1), batch)

    def tiling(self, head_dim: int, group: int, num_loops: int, dtype: torch.dtype) -> Tiling:
        return Tiling(TILE_ROWS)

    def loop_input(
        self,
        embedding: torch.Tensor,
        carries: torch.Tensor,
        batch: RowBatch,
        emb_scale: float,
        hidden_scale: float,
    ) -> torch.Tensor:
        x = embedding[batch.token_ids].float()
        later = torch.from_numpy(np.flatnonzero(batch.loops.numpy()))
        if len(later):
            x[later] = x[later] * emb_scale + carries[batch.input_slots[later]] * hidden_scale
        return x

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return row_ops.rms_norm(x, weight, eps)

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = x + delta
        return total, row_ops.rms_norm(total, weight, eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return row_ops.silu_mul(gate_up)

    def gates(
        self, gate: HiddenGate | QueryGate, x: torch.Tensor, queries: torch.Tensor, eps: float
    ) -> torch.Tensor:
        if isinstance(gate, HiddenGate):
            return row_ops.hidden_gates(row_ops.rms_norm(x, gate.norm, eps), gate.weight, gate.bias)
        return row_ops.query_gates(queries, gate.weight, gate.bias)

    def rotate_and_write(
        self, qkv: torch.Tensor, rope: RopeTable, cache: LayerCache, batch: RowBatch
    ) -> torch.Tensor:
        heads = qkv.view(len(qkv), -1, cache.head_dim).numpy()
        queries = torch.empty(len(qkv), heads.shape[1] - 2 * cache.num_kv_heads, cache.head_dim)
        _rotate_and_write(
            heads,
            rope.cos.numpy(),
            rope.sin.numpy(),
            batch.positions.numpy(),
            batch.cache_slots.numpy(),
            _transposed(cache),
            cache.values.numpy(),
            queries.numpy(),
        )
        return queries

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: RowBatch
    ) -> torch.Tensor:
        work = queries.numel() * int(batch.positions.max())
        return _launch(work >= PARALLEL_WORK, cache, queries, gates, batch)

    def keep_hidden(
        self, hidden: torch.Tensor, carries: torch.Tensor, block_hidden: torch.Tensor, batch: RowBatch
    ) -> None:
        for slots, stored in ((batch.output_slots, carries), (batch.snapshot_blocks, block_hidden)):
            rows = torch.from_numpy(np.flatnonzero(slots.numpy() >= 0))
            if len(rows):
                stored[slots[rows]] = hidden[rows]


def _transposed(cache: LayerCache) -> np.ndarray:
    """The keys as this backend lays them out: ``[num_blocks + 1, num_kv_heads, head_dim, block_size]``."""
    blocks, heads, block_size, head_dim = cache.keys.shape
    return cache.keys.numpy().reshape(blocks, heads, head_dim, block_size)


def _launch(
    parallel: bool,
    cache: LayerCache,
    queries: torch.Tensor,
    gates: torch.Tensor | None,
    batch: RowBatch,
) -> torch.Tensor:
    out = torch.empty(queries.shape)
    if gates is None:
        gates = torch.empty(0, queries.shape[1])
    arguments = (
        queries.numpy(),
        gates.numpy(),
        _transposed(cache),
        cache.values.numpy(),
        batch.tiles.numpy(),
        batch.positions.numpy(),
        batch.loops.numpy(),
        batch.shared_tables.numpy(),
        batch.window_tables.numpy(),
        batch.window_first.numpy(),
        batch.window_floor.numpy(),
        batch.window,
        out.numpy(),
    )
    if parallel:
        attend(numba.get_num_threads(), *arguments)
    else:
        attend_share(0, 1, *arguments)
    return out.flatten(1)


@numba.njit(cache=True, nogil=True)
def _rotate_and_write(
    heads: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    positions: np.ndarray,
    slots: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    queries: np.ndarray,
) -> None:
    num_heads, kv_heads, block_size = queries.shape[1], key_cache.shape[1], key_cache.shape[3]
    for row in range(heads.shape[0]):
        row_cos, row_sin = cos[positions[row]], sin[positions[row]]
        for head in range(num_heads):
            _rotate_head(heads[row, head], row_cos, row_sin, queries[row, head])
        if slots[row] < 0:
            continue
        block, offset = slots[row] // block_size, slots[row] % block_size
        for head in range(kv_heads):
            _rotate_head(heads[row, num_heads + head], row_cos, row_sin, key_cache[block, head, :, offset])
            value_cache[block, head, offset] = heads[row, num_heads + kv_heads + head]


@numba.njit(cache=True, nogil=True)
def _rotate_head(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray) -> None:
    """Rotate-half (Llama, NeoX) form of RoPE (arXiv 2104.09864): dimension d pairs with d + head_dim / 2."""
    half = x.shape[0] // 2
    for d in range(half):
        out[d] = x[d] * cos[d] - x[half + d] * sin[d]
        out[half + d] = x[half + d] * cos[d] + x[d] * sin[d]

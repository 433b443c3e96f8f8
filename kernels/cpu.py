"""The CPU backend: float32 arithmetic, compiled by numba; the cache is float32 or bfloat16.

In the cache, the keys of a block lie transposed, ``[head_dim, block_size]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch

from kernels import row_ops
from kernels.bfloat16 import as_stored
from kernels.cpu_attention import attend, attend_share
from kernels.interface import HiddenGate, LayerCache, QueryGate, RopeTable, RowBatch, Tiling

TILE_ROWS = 16
PARALLEL_WORK = 1 << 15
"""Multiply-adds of an `attend` call from which waking threads pays."""
PARALLEL_ROTATION = 1 << 13
"""Elements of q, k, v from which it pays for RoPE and the cache write: each element of a key has a line of its own."""


@dataclass(frozen=True, slots=True)
class BatchArrays:
    """What kernels read of a `RowBatch` in every layer; made once a step, since each conversion costs microseconds.

    Attributes:
        last_position: the highest.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    loops: np.ndarray
    windows: np.ndarray
    input_slots: np.ndarray
    output_slots: np.ndarray
    snapshot_blocks: np.ndarray
    cache_slots: np.ndarray
    tiles: np.ndarray
    context_tables: np.ndarray
    window_tables: np.ndarray
    window_first: np.ndarray
    window_floor: np.ndarray
    window: int
    last_position: int

    @classmethod
    def of(cls, batch: RowBatch) -> "BatchArrays":
        return cls(
            batch.token_ids.numpy(),
            batch.positions.numpy(),
            batch.loops.numpy(),
            batch.windows.numpy(),
            batch.input_slots.numpy(),
            batch.output_slots.numpy(),
            batch.snapshot_blocks.numpy(),
            batch.cache_slots.numpy(),
            batch.tiles.numpy(),
            batch.context_tables.numpy(),
            batch.window_tables.numpy(),
            batch.window_first.numpy(),
            batch.window_floor.numpy(),
            batch.window,
            int(batch.positions.max()),
        )


@dataclass(frozen=True, slots=True)
class CacheArrays:
    """A layer's cache as compiled code takes it: float32, or bfloat16's bits.

    Attributes:
        keys: ``[num_blocks + 1, num_kv_heads, head_dim, block_size]``, as this backend lays them out.
        values: ``[num_blocks + 1, num_kv_heads, block_size, head_dim]``.
        cache: what they belong to.
    """

    keys: np.ndarray
    values: np.ndarray
    cache: LayerCache

    @classmethod
    def of(cls, cache: LayerCache) -> "CacheArrays":
        blocks, heads, block_size, head_dim = cache.keys.shape
        keys = _stored(cache.keys).reshape(blocks, heads, head_dim, block_size)
        return cls(keys, _stored(cache.values), cache)


class CpuBackend:
    """float32 arithmetic; the embedding may be stored in bfloat16."""

    def __init__(self) -> None:
        self._batch: RowBatch | None = None
        self._arrays: BatchArrays | None = None
        self._caches: dict[int, CacheArrays] = {}

    def warm_up(self, cache_dtype: torch.dtype) -> None:
        """Call every kernel, serial and parallel, on the smallest inputs: seconds once, then numba's cache."""
        row_ops.compile_all()
        keys, values = (torch.zeros(2, 1, 1, 2, dtype=cache_dtype) for _ in range(2))
        cache = LayerCache(keys, values)
        zero = torch.zeros(1, dtype=torch.int32)
        batch = RowBatch(
            *(zero,) * 8,
            tiles=torch.tensor([[0, 0, 1]], dtype=torch.int32),
            parts=zero.view(1, 1),
            part_starts=zero,
            context_tables=zero.view(1, 1),
            window_tables=zero.view(1, 1, 1),
            window_first=zero.view(1, 1),
            window_floor=zero.view(1, 1),
            logit_rows=zero,
            window=0,
            num_decode_tiles=1,
        )
        rope = RopeTable(torch.zeros(1, 1), torch.zeros(1, 1))
        for parallel in (False, True):
            arrays = BatchArrays.of(batch)
            stored = CacheArrays.of(cache)
            queries = _launch_rotate(parallel, torch.zeros(1, 6), rope, stored, arrays)
            _launch_attend(parallel, stored, queries, torch.zeros(1, 1), arrays)

    def tiling(self, head_dim: int, group: int, decode_rows: int, dtype: torch.dtype) -> Tiling:
        return Tiling(TILE_ROWS)

    def loop_input(
        self,
        embedding: torch.Tensor,
        carries: torch.Tensor,
        batch: RowBatch,
        emb_scale: float,
        hidden_scale: float,
    ) -> torch.Tensor:
        arrays = self._arrays_of(batch)
        return row_ops.looped_input(
            embedding,
            carries,
            arrays.token_ids,
            arrays.loops,
            arrays.input_slots,
            emb_scale,
            hidden_scale,
        )

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return row_ops.rms_norm(x, weight, eps)

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return row_ops.add_rms_norm(x, delta, weight, eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return row_ops.silu_mul(gate_up)

    def gates(
        self, gate: HiddenGate | QueryGate, x: torch.Tensor, queries: torch.Tensor, eps: float
    ) -> torch.Tensor:
        if isinstance(gate, HiddenGate):
            return row_ops.hidden_gates(x, gate.norm, gate.weight, gate.bias, eps)
        return row_ops.query_gates(queries, gate.weight, gate.bias)

    def rotate_and_write(
        self, qkv: torch.Tensor, rope: RopeTable, cache: LayerCache, batch: RowBatch
    ) -> torch.Tensor:
        parallel = qkv.numel() >= PARALLEL_ROTATION
        return _launch_rotate(parallel, qkv, rope, self._stored_of(cache), self._arrays_of(batch))

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: RowBatch
    ) -> torch.Tensor:
        arrays = self._arrays_of(batch)
        parallel = queries.numel() * arrays.last_position >= PARALLEL_WORK
        return _launch_attend(parallel, self._stored_of(cache), queries, gates, arrays)

    def read_keys(self, cache: LayerCache, blocks: Sequence[int]) -> torch.Tensor:
        _, heads, block_size, head_dim = cache.keys.shape
        transposed = cache.keys[list(blocks)].view(len(blocks), heads, head_dim, block_size)
        return transposed.float().permute(1, 0, 3, 2).flatten(1, 2)

    def keep_hidden(
        self, hidden: torch.Tensor, carries: torch.Tensor, block_hidden: torch.Tensor, batch: RowBatch
    ) -> None:
        arrays = self._arrays_of(batch)
        row_ops.scatter_rows(hidden, arrays.output_slots, carries)
        row_ops.scatter_rows(hidden, arrays.snapshot_blocks, block_hidden)

    def _arrays_of(self, batch: RowBatch) -> BatchArrays:
        if self._arrays is None or batch is not self._batch:
            self._batch, self._arrays = batch, BatchArrays.of(batch)
        return self._arrays

    def _stored_of(self, cache: LayerCache) -> CacheArrays:
        stored = self._caches.get(id(cache))
        # An id may be used again by another cache once its own is gone, unless that is held here.
        if stored is None:
            stored = self._caches[id(cache)] = CacheArrays.of(cache)
        return stored


def _stored(part: torch.Tensor) -> np.ndarray:
    """Keys or values as compiled code takes them: bfloat16 as its bits."""
    return (part if part.dtype == torch.float32 else part.view(torch.uint16)).numpy()


def _launch_rotate(
    parallel: bool, qkv: torch.Tensor, rope: RopeTable, stored: CacheArrays, arrays: BatchArrays
) -> torch.Tensor:
    kv_heads, head_dim = stored.keys.shape[1:3]
    heads = qkv.numpy().reshape(len(qkv), -1, head_dim)
    queries = np.empty((len(qkv), heads.shape[1] - 2 * kv_heads, head_dim), np.float32)
    kernel = _rotate_and_write_parallel if parallel else _rotate_and_write
    kernel(
        heads,
        rope.cos.numpy(),
        rope.sin.numpy(),
        arrays.positions,
        arrays.cache_slots,
        stored.keys,
        stored.values,
        queries,
    )
    return torch.from_numpy(queries)


def _launch_attend(
    parallel: bool,
    stored: CacheArrays,
    queries: torch.Tensor,
    gates: torch.Tensor | None,
    arrays: BatchArrays,
) -> torch.Tensor:
    out = np.empty(queries.shape, np.float32)
    arguments = (
        queries.numpy(),
        np.empty((0, queries.shape[1]), np.float32) if gates is None else gates.numpy(),
        stored.keys,
        stored.values,
        arrays.tiles,
        arrays.positions,
        arrays.windows,
        arrays.context_tables,
        arrays.window_tables,
        arrays.window_first,
        arrays.window_floor,
        arrays.window,
        out,
    )
    if parallel:
        attend(numba.get_num_threads(), *arguments)
    else:
        attend_share(0, 1, *arguments)
    return torch.from_numpy(out.reshape(len(out), -1))


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
    for row in range(heads.shape[0]):
        _rotate_row(
            heads[row],
            cos[positions[row]],
            sin[positions[row]],
            slots[row],
            key_cache,
            value_cache,
            queries[row],
        )


@numba.njit(cache=True, nogil=True, parallel=True)
def _rotate_and_write_parallel(
    heads: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    positions: np.ndarray,
    slots: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    queries: np.ndarray,
) -> None:
    for row in numba.prange(heads.shape[0]):
        _rotate_row(
            heads[row],
            cos[positions[row]],
            sin[positions[row]],
            slots[row],
            key_cache,
            value_cache,
            queries[row],
        )


@numba.njit(cache=True, nogil=True)
def _rotate_row(
    heads: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
    slot: int,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    queries: np.ndarray,
) -> None:
    num_heads, kv_heads, block_size = queries.shape[0], key_cache.shape[1], key_cache.shape[3]
    for head in range(num_heads):
        _rotate_head(heads[head], cos, sin, queries[head])
    if slot < 0:
        return
    block, offset = slot // block_size, slot % block_size
    for head in range(kv_heads):
        _rotate_head(heads[num_heads + head], cos, sin, key_cache[block, head, :, offset])
        values, stored = heads[num_heads + kv_heads + head], value_cache[block, head, offset]
        for d in range(values.shape[0]):
            stored[d] = as_stored(values[d], stored)


@numba.njit(cache=True, nogil=True)
def _rotate_head(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray) -> None:
    """Rotate-half (Llama, NeoX) form of RoPE (arXiv 2104.09864): dimension d pairs with d + head_dim / 2."""
    half = x.shape[0] // 2
    low, high, out_low, out_high = x[:half], x[half:], out[:half], out[half:]
    for d in range(half):
        out_low[d] = as_stored(low[d] * cos[d] - high[d] * sin[d], out)
        out_high[d] = as_stored(high[d] * cos[d] + low[d] * sin[d], out)

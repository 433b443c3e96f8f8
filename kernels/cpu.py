"""The CPU backend: float32, compiled by numba. Nothing is gathered: attention reads shared K/V in place.

A work item is (tile, KV head). A tile's rows, of whatever loop, walk the same shared blocks together, so a block is
read into the first-level cache once for all loops and heads of the group. Each row's softmax is accumulated block by
block in the order of positions; what a row computes depends on its own position and the block size only, never on the
tile, the chunk or the batch (see "Batch invariance" in docs/architecture.md).
"""

from collections.abc import Callable

import numba
import numpy as np
import torch

from kernels import row_ops
from kernels.interface import HiddenGate, LayerCache, QueryGate, RopeTable, RowBatch, Tiling

TILE_ROWS = 16
PARALLEL_WORK = 1 << 20
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
        for kernel in (_attend_serial, _attend_parallel):
            _launch(kernel, cache, queries, torch.zeros(1, 1), batch)

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
            cache.keys.numpy(),
            cache.values.numpy(),
            queries.numpy(),
        )
        return queries

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: RowBatch
    ) -> torch.Tensor:
        work = queries.numel() * int(batch.positions.max())
        kernel = _attend_parallel if work >= PARALLEL_WORK else _attend_serial
        return _launch(kernel, cache, queries, gates, batch)

    def keep_hidden(
        self, hidden: torch.Tensor, carries: torch.Tensor, block_hidden: torch.Tensor, batch: RowBatch
    ) -> None:
        for slots, stored in ((batch.output_slots, carries), (batch.snapshot_blocks, block_hidden)):
            rows = torch.from_numpy(np.flatnonzero(slots.numpy() >= 0))
            if len(rows):
                stored[slots[rows]] = hidden[rows]


def _launch(
    kernel: Callable[..., None],
    cache: LayerCache,
    queries: torch.Tensor,
    gates: torch.Tensor | None,
    batch: RowBatch,
) -> torch.Tensor:
    out = torch.empty(queries.shape)
    if gates is None:
        gates = torch.empty(0, queries.shape[1])
    kernel(
        queries.numpy(),
        gates.numpy(),
        cache.keys.numpy(),
        cache.values.numpy(),
        batch.tiles.numpy(),
        numba.get_num_threads(),
        batch.positions.numpy(),
        batch.loops.numpy(),
        batch.shared_tables.numpy(),
        batch.window_tables.numpy(),
        batch.window_first.numpy(),
        batch.window_floor.numpy(),
        batch.window,
        out.numpy(),
    )
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
    num_heads, kv_heads, block_size = queries.shape[1], key_cache.shape[1], key_cache.shape[2]
    for row in range(heads.shape[0]):
        row_cos, row_sin = cos[positions[row]], sin[positions[row]]
        for head in range(num_heads):
            _rotate_head(heads[row, head], row_cos, row_sin, queries[row, head])
        if slots[row] < 0:
            continue
        block, offset = slots[row] // block_size, slots[row] % block_size
        for head in range(kv_heads):
            _rotate_head(heads[row, num_heads + head], row_cos, row_sin, key_cache[block, head, offset])
            value_cache[block, head, offset] = heads[row, num_heads + kv_heads + head]


@numba.njit(cache=True, nogil=True)
def _rotate_head(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray) -> None:
    """Rotate-half (Llama, NeoX) form of RoPE (arXiv 2104.09864): dimension d pairs with d + head_dim / 2."""
    half = x.shape[0] // 2
    for d in range(half):
        out[d] = x[d] * cos[d] - x[half + d] * sin[d]
        out[half + d] = x[half + d] * cos[d] + x[d] * sin[d]


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _visit_block(
    query: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    first: int,
    stop: int,
    scale: np.float32,
    scores: np.ndarray,
    state: np.ndarray,
    acc: np.ndarray,
) -> None:
    """Fold keys ``first … stop - 1`` of one block into a row's running softmax.

    Args:
        query: ``[head_dim]``. keys, values: ``[block_size, head_dim]``.
        scores: scratch ``[block_size]``.
        state: ``[2]``: running maximum and running sum of exponentials.
        acc: ``[head_dim]``: running weighted sum of values.
    """
    head_dim = query.shape[0]
    highest = state[0]
    for key in range(first, stop):
        score = np.float32(0.0)
        for d in range(head_dim):
            score += query[d] * keys[key, d]
        score *= scale
        scores[key] = score
        highest = max(highest, score)
    shrink = np.exp(state[0] - highest)
    total = state[1] * shrink
    for d in range(head_dim):
        acc[d] *= shrink
    for key in range(first, stop):
        weight = np.exp(scores[key] - highest)
        total += weight
        for d in range(head_dim):
            acc[d] += weight * values[key, d]
    state[0] = highest
    state[1] = total


@numba.njit(cache=True, nogil=True)
def _attend_tile(
    kv_head: int,
    sequence: int,
    row_start: int,
    row_stop: int,
    queries: np.ndarray,
    gates: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    positions: np.ndarray,
    loops: np.ndarray,
    shared_tables: np.ndarray,
    window_tables: np.ndarray,
    window_first: np.ndarray,
    window_floor: np.ndarray,
    window: int,
    out: np.ndarray,
) -> None:
    block_size, head_dim = key_cache.shape[2], key_cache.shape[3]
    group = queries.shape[1] // key_cache.shape[1]
    scale = np.float32(1.0 / np.sqrt(head_dim))
    scores = np.empty(block_size, np.float32)
    rows = row_stop - row_start
    state = np.empty((rows * group, 2), np.float32)
    state[:, 0] = np.float32(-1e30)
    state[:, 1] = np.float32(0.0)
    acc = np.zeros((rows * group, head_dim), np.float32)

    last = 0
    for row in range(row_start, row_stop):
        last = max(last, positions[row])
    for index in range(last // block_size + 1):
        block = shared_tables[sequence, index]
        keys, values = key_cache[block, kv_head], value_cache[block, kv_head]
        for row in range(row_start, row_stop):
            stop = min(block_size, positions[row] - index * block_size + 1)
            if stop <= 0:
                continue
            for member in range(group):
                lane = (row - row_start) * group + member
                query = queries[row, kv_head * group + member]
                _visit_block(query, keys, values, 0, stop, scale, scores, state[lane], acc[lane])

    local_state = np.empty(2, np.float32)
    local = np.empty(head_dim, np.float32)
    for row in range(row_start, row_stop):
        loop, position = loops[row], positions[row]
        for member in range(group):
            head, lane = kv_head * group + member, (row - row_start) * group + member
            share = np.float32(1.0) / state[lane, 1]
            if loop == 0:
                for d in range(head_dim):
                    out[row, head, d] = acc[lane, d] * share
                continue
            local_state[0] = np.float32(-1e30)
            local_state[1] = np.float32(0.0)
            local[:] = np.float32(0.0)
            low = max(window_floor[sequence, loop - 1], position - window)
            for index in range(low // block_size, position // block_size + 1):
                block = window_tables[sequence, loop - 1, index - window_first[sequence, loop - 1]]
                first = max(0, low - index * block_size)
                stop = min(block_size, position - index * block_size + 1)
                _visit_block(
                    queries[row, head],
                    key_cache[block, kv_head],
                    value_cache[block, kv_head],
                    first,
                    stop,
                    scale,
                    scores,
                    local_state,
                    local,
                )
            gate = gates[row, head]
            local_share = (np.float32(1.0) - gate) / local_state[1]
            share *= gate
            for d in range(head_dim):
                out[row, head, d] = acc[lane, d] * share + local[d] * local_share


def _attend_all(
    queries: np.ndarray,
    gates: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    tiles: np.ndarray,
    threads: int,
    positions: np.ndarray,
    loops: np.ndarray,
    shared_tables: np.ndarray,
    window_tables: np.ndarray,
    window_first: np.ndarray,
    window_floor: np.ndarray,
    window: int,
    out: np.ndarray,
) -> None:
    """Late tiles of a prompt see more keys: dealing the tiles out like cards balances the threads' shares."""
    kv_heads = key_cache.shape[1]
    hand = (tiles.shape[0] + threads - 1) // threads
    for item in numba.prange(hand * threads * kv_heads):
        card = item // kv_heads
        index = card % hand * threads + card // hand
        if index >= tiles.shape[0]:
            continue
        tile = tiles[index]
        _attend_tile(
            item % kv_heads,
            tile[0],
            tile[1],
            tile[2],
            queries,
            gates,
            key_cache,
            value_cache,
            positions,
            loops,
            shared_tables,
            window_tables,
            window_first,
            window_floor,
            window,
            out,
        )


_attend_serial = numba.njit(cache=True, nogil=True)(_attend_all)
_attend_parallel = numba.njit(cache=True, nogil=True, parallel=True)(_attend_all)

"""Attention on the CPU over the paged cache, compiled by numba: nothing is gathered, shared K/V is read in place.

A work item is (tile of rows of one sequence, KV head). Its rows, of whatever loop, walk the same shared blocks
together, so a block is read into the first-level cache once for all loops and heads of the group. Each row's softmax is
accumulated block by block in the order of positions; what a row computes depends on its own position and the block
size only, never on the tile, the chunk or the batch (see "Batch invariance" in docs/architecture.md).
"""

from collections.abc import Callable

import numba
import numpy as np
import torch

from kernels.interface import AttentionBatch, LayerCache

TILE_ROWS = 16
PARALLEL_WORK = 1 << 20
"""Multiply-adds of an `attend` call from which waking threads pays."""


class CpuAttention:
    """float32 only: CPUs without AVX512-BF16 compute half precision more slowly than single."""

    name = "cpu"

    def write(
        self, cache: LayerCache, keys: torch.Tensor, values: torch.Tensor, batch: AttentionBatch
    ) -> None:
        _write(cache.keys.numpy(), cache.values.numpy(), keys.numpy(), values.numpy(), batch.slots.numpy())

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: AttentionBatch
    ) -> torch.Tensor:
        work = queries.numel() * int(batch.positions.max())
        kernel = _attend_parallel if work >= PARALLEL_WORK else _attend_serial
        return _launch(kernel, cache, queries, gates, batch)


def compile_all() -> None:
    """Compile every kernel on one row of one sequence."""
    cache = LayerCache(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    zero, row = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 1, 1)
    table, tables = zero.view(1, 1), zero.view(1, 1, 1)
    batch = AttentionBatch(
        slots=torch.zeros(1, dtype=torch.int64),
        positions=zero,
        loops=zero,
        row_starts=torch.tensor([0, 1], dtype=torch.int32),
        shared_tables=table,
        window_tables=tables,
        window_first=table,
        window_floor=table,
        window=0,
    )
    CpuAttention().write(cache, row, row, batch)
    for kernel in (_attend_serial, _attend_parallel):
        _launch(kernel, cache, row, row[0], batch)


def _launch(
    kernel: Callable[..., None],
    cache: LayerCache,
    queries: torch.Tensor,
    gates: torch.Tensor | None,
    batch: AttentionBatch,
) -> torch.Tensor:
    out = torch.empty(queries.shape, dtype=torch.float32)
    if gates is None:
        gates = torch.empty((0, queries.shape[1]), dtype=torch.float32)
    kernel(
        queries.numpy(),
        gates.numpy(),
        cache.keys.numpy(),
        cache.values.numpy(),
        _tiles(batch.row_starts.numpy()),
        batch.positions.numpy(),
        batch.loops.numpy(),
        batch.shared_tables.numpy(),
        batch.window_tables.numpy(),
        batch.window_first.numpy(),
        batch.window_floor.numpy(),
        batch.window,
        out.numpy(),
    )
    return out


def _tiles(row_starts: np.ndarray) -> np.ndarray:
    """Cut each sequence's rows into tiles; int32 ``[tiles, 3]``: sequence, first row, last row + 1.

    Late tiles of a prompt see more keys; dealing the tiles out like cards balances the contiguous shares that
    numba gives its threads.
    """
    tiles = [
        (sequence, row, min(row + TILE_ROWS, int(row_starts[sequence + 1])))
        for sequence in range(len(row_starts) - 1)
        for row in range(int(row_starts[sequence]), int(row_starts[sequence + 1]), TILE_ROWS)
    ]
    threads = numba.get_num_threads()
    dealt = [tile for thread in range(threads) for tile in tiles[thread::threads]]
    return np.array(dealt, dtype=np.int32).reshape(-1, 3)


@numba.njit(cache=True, nogil=True)
def _write(
    key_cache: np.ndarray, value_cache: np.ndarray, keys: np.ndarray, values: np.ndarray, slots: np.ndarray
) -> None:
    block_size = key_cache.shape[2]
    for row in range(slots.shape[0]):
        slot = slots[row]
        if slot >= 0:
            key_cache[slot // block_size, :, slot % block_size, :] = keys[row]
            value_cache[slot // block_size, :, slot % block_size, :] = values[row]


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
    positions: np.ndarray,
    loops: np.ndarray,
    shared_tables: np.ndarray,
    window_tables: np.ndarray,
    window_first: np.ndarray,
    window_floor: np.ndarray,
    window: int,
    out: np.ndarray,
) -> None:
    kv_heads = key_cache.shape[1]
    for item in numba.prange(tiles.shape[0] * kv_heads):
        tile = tiles[item // kv_heads]
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

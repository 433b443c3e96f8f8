"""Attention over the paged cache on the CPU, compiled by numba. Nothing is gathered: shared K/V is read in place.

A work item is (tile, KV head). Its **lanes** are the (row, query head) pairs of the tile that share the KV head: loops,
positions and heads of the group together. All lanes walk the shared blocks side by side, so a block is read into the
first-level cache once for all of them, and both products with it are `kernels.microkernel`'s. A block's keys lie
transposed, ``[head_dim, block_size]``, which makes the scores such a product.

Each lane's softmax is accumulated block by block in the order of positions; what a row computes depends on its own
position and the block size only, never on the tile, the chunk or the batch (see "Batch invariance" in
docs/architecture.md).
"""

from collections.abc import Callable

import numba
import numpy as np

from kernels.exponential import exp
from kernels.microkernel import FLOAT_BYTES, LANES, PANEL, TILE, multiply_columns

_TILE_ROWS = TILE.rows
_NOTHING = np.float32(-1e30)
"""Score of a key that is not seen: its weight underflows to zero."""
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@numba.njit(cache=True, nogil=True)
def _multiply(
    x: np.ndarray,
    start: int,
    depth: int,
    weights: int,
    columns: int,
    totals: np.ndarray,
    first: bool,
) -> None:
    """``totals[l] (+)= Σ_k x[l, start + k] · weights[k]`` for all lanes l.

    Args:
        weights: address of float32 ``[depth, columns]``.
    """
    lanes, x_stride, totals_stride = x.shape[0], x.shape[1] * FLOAT_BYTES, totals.shape[1] * FLOAT_BYTES
    visits = (lanes + _TILE_ROWS - 1) // _TILE_ROWS
    column = 0
    while column < columns:
        width = PANEL if columns - column >= PANEL else min(LANES, columns - column)
        for visit in range(visits):
            lane, next_lane = visit * lanes // visits, (visit + 1) * lanes // visits
            multiply_columns(
                next_lane - lane,
                width,
                first,
                weights + column * FLOAT_BYTES,
                columns * FLOAT_BYTES,
                x.ctypes.data + lane * x_stride + start * FLOAT_BYTES,
                x_stride,
                depth,
                totals.ctypes.data + lane * totals_stride + column * FLOAT_BYTES,
                totals_stride,
            )
        column += width


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})
def _highest(scores: np.ndarray, start: np.float32) -> np.float32:
    highest = start
    for key in range(scores.shape[0]):
        highest = max(highest, scores[key])
    return highest


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def _sum(values: np.ndarray) -> np.float32:
    total = _ZERO
    for key in range(values.shape[0]):
        total += values[key]
    return total


@numba.njit(cache=True, nogil=True)
def _visit_block(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    first: int,
    stop: int,
    scores: np.ndarray,
    state: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Fold keys ``first … stop - 1`` of one block into the running softmax of some lanes.

    Keys outside of that range may hold anything, NaN included.

    Args:
        queries: scaled, ``[lanes, head_dim]``.
        keys: ``[head_dim, block_size]``. values: ``[block_size, head_dim]``.
        scores: scratch ``[lanes, block_size]``.
        state: ``[lanes, 2]``: running maximum and running sum of exponentials.
        sums: ``[lanes, head_dim]``: running weighted sums of values.
    """
    head_dim, block_size = keys.shape
    _multiply(queries, 0, head_dim, keys.ctypes.data, block_size, scores, True)
    for lane in range(queries.shape[0]):
        lane_scores = scores[lane]
        for key in range(first):
            lane_scores[key] = _NOTHING
        for key in range(stop, block_size):
            lane_scores[key] = _NOTHING
        highest = _highest(lane_scores, state[lane, 0])
        for key in range(block_size):
            lane_scores[key] -= highest
        shrink = exp(state[lane, 0] - highest)
        state[lane, 0] = highest
        state[lane, 1] *= shrink
        if shrink != _ONE:
            for d in range(head_dim):
                sums[lane, d] *= shrink
    flat = scores.reshape(-1)
    for i in range(flat.shape[0]):
        flat[i] = exp(flat[i])
    for lane in range(queries.shape[0]):
        state[lane, 1] += _sum(scores[lane, first:stop])
    seen_values = values.ctypes.data + first * head_dim * FLOAT_BYTES
    _multiply(scores, first, stop - first, seen_values, head_dim, sums, False)


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
    head_dim, block_size = key_cache.shape[2], key_cache.shape[3]
    group = queries.shape[1] // key_cache.shape[1]
    first_head, rows = kv_head * group, row_stop - row_start
    scale = np.float32(1.0 / np.sqrt(head_dim))
    lanes = np.empty((rows * group, head_dim), np.float32)
    for row in range(rows):
        for member in range(group):
            for d in range(head_dim):
                lanes[row * group + member, d] = queries[row_start + row, first_head + member, d] * scale
    scores = np.empty((rows * group, block_size), np.float32)
    state = np.empty((rows * group, 2), np.float32)
    sums = np.empty((rows * group, head_dim), np.float32)

    _begin(state, sums)
    last = positions[row_start]
    for row in range(row_start, row_stop):
        last = max(last, positions[row])
    for index in range(last // block_size + 1):
        block = shared_tables[sequence, index]
        row = 0
        while row < rows:
            stop = min(block_size, positions[row_start + row] - index * block_size + 1)
            next_row = row + 1
            while (
                next_row < rows
                and min(block_size, positions[row_start + next_row] - index * block_size + 1) == stop
            ):
                next_row += 1
            if stop > 0:
                low, high = row * group, next_row * group
                _visit_block(
                    lanes[low:high],
                    key_cache[block, kv_head],
                    value_cache[block, kv_head],
                    0,
                    stop,
                    scores[low:high],
                    state[low:high],
                    sums[low:high],
                )
            row = next_row
    for row in range(rows):
        for member in range(group):
            lane, gate = row * group + member, _ONE
            if loops[row_start + row] > 0:
                gate = gates[row_start + row, first_head + member]
            share = gate / state[lane, 1]
            for d in range(head_dim):
                out[row_start + row, first_head + member, d] = sums[lane, d] * share

    for row in range(rows):
        loop, position = loops[row_start + row], positions[row_start + row]
        if loop == 0:
            continue
        low, high = row * group, (row + 1) * group
        _begin(state[low:high], sums[low:high])
        floor = max(window_floor[sequence, loop - 1], position - window)
        for index in range(floor // block_size, position // block_size + 1):
            block = window_tables[sequence, loop - 1, index - window_first[sequence, loop - 1]]
            _visit_block(
                lanes[low:high],
                key_cache[block, kv_head],
                value_cache[block, kv_head],
                max(0, floor - index * block_size),
                min(block_size, position - index * block_size + 1),
                scores[low:high],
                state[low:high],
                sums[low:high],
            )
        for member in range(group):
            share = (_ONE - gates[row_start + row, first_head + member]) / state[low + member, 1]
            for d in range(head_dim):
                out[row_start + row, first_head + member, d] += sums[low + member, d] * share


@numba.njit(cache=True, nogil=True)
def _begin(state: np.ndarray, sums: np.ndarray) -> None:
    state[:, 0] = _NOTHING
    state[:, 1] = _ZERO
    sums[:] = _ZERO


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
    """Gated attention of all tiles, see `kernels.interface`.

    Late tiles of a prompt see more keys: dealing the tiles out like cards balances the threads' shares.

    Args:
        queries, out: ``[rows, heads, head_dim]``.
        key_cache: ``[blocks, kv_heads, head_dim, block_size]``.
        value_cache: ``[blocks, kv_heads, block_size, head_dim]``.
        gates, tiles, positions and so on: as in `RowBatch`.
    """
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


attend_serial: Callable[..., None] = numba.njit(cache=True, nogil=True)(_attend_all)
attend_parallel: Callable[..., None] = numba.njit(cache=True, nogil=True, parallel=True)(_attend_all)

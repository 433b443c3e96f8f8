"""Attention over the paged cache on the CPU, compiled by numba. Nothing is gathered: shared K/V is read in place.

A work item is (tile, KV head). Its **lanes** are the (row, query head) pairs of the tile that share the KV head: loops,
positions and heads of the group together. All lanes walk the blocks side by side, so a block is read into the
first-level cache once for all of them, and both products with it are `kernels.microkernel`'s. A block's keys lie
transposed, ``[head_dim, block_size]``, which makes the scores such a product.

A lane's softmax is accumulated in chunks of about `CHUNK_KEYS` positions, cut at fixed positions; what a row computes
depends on its own position and the block size only, never on the tile, the step or the batch (see "Batch invariance" in
docs/architecture.md).
"""

from typing import NamedTuple

import numba
import numpy as np

from kernels.bfloat16 import widen_bfloat16
from kernels.exponential import exp
from kernels.microkernel import FLOAT_BYTES, LANES, PANEL, TILE, multiply_vectors
from kernels.prefetch import prefetch
from kernels.softmax_chunk import soften_chunk

CHUNK_KEYS = 128
"""Scores of a lane that are exponentiated together: enough to fill vectors, few enough to stay in the first cache."""

_TILE_ROWS = TILE.rows
_TILE_VECTORS = TILE.vectors
_NOTHING = np.float32(-1e30)
"""Score of a key that is not seen: its weight is zero."""
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class Scratch(NamedTuple):
    """What a thread needs for one work item.

    Attributes:
        queries: scaled, ``[lanes, head_dim]``.
        scores: ``[lanes, keys of a chunk]``, then their exponentials; padded to whole vectors.
        highest: ``[lanes]``: running maximum of the scores.
        totals: ``[lanes]``: running sum of exponentials.
        sums: ``[lanes, head_dim]``: running weighted sums of values.
        low, high: ``[rows]``: first position a row sees, and the one after its last.
        addresses: int64, of vectors of keys or values.
        widened: blocks of a chunk as float32, where the cache is narrower; else of no use.
    """

    queries: np.ndarray
    scores: np.ndarray
    highest: np.ndarray
    totals: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    addresses: np.ndarray
    widened: np.ndarray


class Heads(NamedTuple):
    """Where the keys and values of one KV head lie.

    Attributes:
        keys, values: address of block 0's, ``[head_dim, block_size]`` and ``[block_size, head_dim]``.
        stride: bytes from block to block.
        item_bytes: 4 for float32, 2 for bfloat16.
    """

    keys: int
    values: int
    stride: int
    item_bytes: int
    head_dim: int
    block_size: int
    group: int


@numba.njit(cache=True, nogil=True)
def _chunk_blocks(block_size: int) -> int:
    return max(1, CHUNK_KEYS // block_size)


@numba.njit(cache=True, nogil=True)
def _scratch(rows: int, group: int, head_dim: int, block_size: int, item_bytes: int) -> Scratch:
    lanes, chunk_blocks = rows * group, _chunk_blocks(block_size)
    vectors = chunk_blocks * ((block_size + LANES - 1) // LANES) + (head_dim + LANES - 1) // LANES
    widened = 0 if item_bytes == FLOAT_BYTES else chunk_blocks * block_size * head_dim
    return Scratch(
        np.empty((lanes, head_dim), np.float32),
        np.empty((lanes, (chunk_blocks * block_size + LANES - 1) // LANES * LANES), np.float32),
        np.empty(lanes, np.float32),
        np.empty(lanes, np.float32),
        np.empty((lanes, head_dim), np.float32),
        np.empty(rows, np.int64),
        np.empty(rows, np.int64),
        np.empty(vectors, np.int64),
        np.empty(widened, np.float32),
    )


@numba.njit(cache=True, nogil=True)
def _readable(heads: Heads, scratch: Scratch, address: int, place: int) -> int:
    """Address of a block's keys or values as float32: where they lie, or widened at a place of the scratch."""
    if heads.item_bytes == FLOAT_BYTES:
        return address
    elements = heads.block_size * heads.head_dim
    target = scratch.widened.ctypes.data + place * elements * FLOAT_BYTES
    widen_bfloat16(address, target, elements)
    return target


@numba.njit(cache=True, nogil=True)
def _multiply(
    lanes: int,
    columns: int,
    first: bool,
    addresses: int,
    stride: int,
    x: int,
    x_stride: int,
    depth: int,
    totals: int,
    totals_stride: int,
) -> None:
    """`multiply_vectors` for any number of lanes, in visits of about equal size."""
    visits = (lanes + _TILE_ROWS - 1) // _TILE_ROWS
    for visit in range(visits):
        lane, next_lane = visit * lanes // visits, (visit + 1) * lanes // visits
        multiply_vectors(
            next_lane - lane,
            columns,
            first,
            addresses,
            stride,
            x + lane * x_stride,
            x_stride,
            depth,
            totals + lane * totals_stride,
            totals_stride,
        )


@numba.njit(cache=True, nogil=True)
def _score(
    heads: Heads, scratch: Scratch, first_lane: int, lanes: int, blocks: np.ndarray, column: int
) -> None:
    """Scores of some lanes with the keys of some blocks, put from a column on."""
    block_size, head_dim = heads.block_size, heads.head_dim
    addresses, places = scratch.addresses, scratch.addresses.ctypes.data
    in_block = (block_size + LANES - 1) // LANES
    for block in range(blocks.shape[0]):
        keys = _readable(heads, scratch, heads.keys + blocks[block] * heads.stride, block)
        for vector in range(in_block):
            addresses[block * in_block + vector] = keys + vector * LANES * FLOAT_BYTES
    x = scratch.queries.ctypes.data + first_lane * head_dim * FLOAT_BYTES
    scores_stride = scratch.scores.shape[1] * FLOAT_BYTES
    scores = scratch.scores.ctypes.data + first_lane * scores_stride
    vector = 0
    while vector < blocks.shape[0] * in_block:
        block, offset = vector // in_block, vector % in_block * LANES
        columns, width = min(LANES, block_size - offset), 1
        if block_size % LANES == 0 and blocks.shape[0] * in_block - vector >= _TILE_VECTORS:
            columns, width = PANEL, _TILE_VECTORS
        _multiply(
            lanes,
            columns,
            True,
            places + vector * 8,
            block_size * FLOAT_BYTES,
            x,
            head_dim * FLOAT_BYTES,
            head_dim,
            scores + (column + block * block_size + offset) * FLOAT_BYTES,
            scores_stride,
        )
        vector += width


@numba.njit(cache=True, nogil=True)
def _soften(scratch: Scratch, lane: int, low: int, high: int) -> None:
    """Turn a lane's scores ``low … high - 1`` of a chunk into weights of its running softmax.

    Only whole vectors are worked on; what they hold beside these scores gets weight zero.
    """
    scores, sums = scratch.scores, scratch.sums
    begin = low // LANES * LANES
    end = (high + LANES - 1) // LANES * LANES
    for key in range(begin, low):
        scores[lane, key] = _NOTHING
    for key in range(high, end):
        scores[lane, key] = _NOTHING
    before = scratch.highest[lane]
    address = scores.ctypes.data + (lane * scores.shape[1] + begin) * FLOAT_BYTES
    highest, total = soften_chunk(address, (end - begin) // LANES, before)
    shrink = exp(before - highest)
    scratch.highest[lane] = highest
    scratch.totals[lane] = scratch.totals[lane] * shrink + total
    if shrink != _ONE:
        for d in range(sums.shape[1]):
            sums[lane, d] *= shrink


@numba.njit(cache=True, nogil=True)
def _add_values(
    heads: Heads, scratch: Scratch, first_lane: int, lanes: int, values: int, low: int, high: int, column: int
) -> None:
    """Add keys ``low … high - 1`` of the block at `values`, weighted, to some lanes' sums."""
    head_dim = heads.head_dim
    addresses, places = scratch.addresses, scratch.addresses.ctypes.data
    vectors = (head_dim + LANES - 1) // LANES
    for vector in range(vectors):
        addresses[vector] = values + (low * head_dim + vector * LANES) * FLOAT_BYTES
    weights_stride = scratch.scores.shape[1] * FLOAT_BYTES
    weights = scratch.scores.ctypes.data + first_lane * weights_stride + (column + low) * FLOAT_BYTES
    sums = scratch.sums.ctypes.data + first_lane * head_dim * FLOAT_BYTES
    vector = 0
    while vector < vectors:
        columns, width = min(LANES, head_dim - vector * LANES), 1
        if head_dim - vector * LANES >= PANEL:
            columns, width = PANEL, _TILE_VECTORS
        _multiply(
            lanes,
            columns,
            False,
            places + vector * 8,
            head_dim * FLOAT_BYTES,
            weights,
            weights_stride,
            high - low,
            sums + vector * LANES * FLOAT_BYTES,
            head_dim * FLOAT_BYTES,
        )
        vector += width


@numba.njit(cache=True, nogil=True)
def _walk(
    heads: Heads, scratch: Scratch, first_row: int, stop_row: int, table: np.ndarray, table_first: int
) -> None:
    """Softmax-weighted sums of what some rows see through a block table, into `Scratch.sums` and `Scratch.totals`.

    Keys that a row does not see may hold anything, NaN included.

    Args:
        table: block ids from block index `table_first` on.
    """
    group, block_size, low, high = heads.group, heads.block_size, scratch.low, scratch.high
    first_lane, stop_lane = first_row * group, stop_row * group
    for lane in range(first_lane, stop_lane):
        scratch.highest[lane] = _NOTHING
        scratch.totals[lane] = _ZERO
        for d in range(heads.head_dim):
            scratch.sums[lane, d] = _ZERO
    begin, end = low[first_row], high[first_row]
    for row in range(first_row, stop_row):
        begin, end = min(begin, low[row]), max(end, high[row])
    chunk_blocks = _chunk_blocks(block_size)
    block, stop_block = begin // block_size, (end + block_size - 1) // block_size
    while block < stop_block:
        chunk = block // chunk_blocks * chunk_blocks
        next_block, start = min(stop_block, chunk + chunk_blocks), chunk * block_size
        blocks = table[block - table_first : next_block - table_first]
        column = (block - chunk) * block_size
        _ask_for(heads, blocks)
        _score(heads, scratch, first_lane, stop_lane - first_lane, blocks, column)
        for row in range(first_row, stop_row):
            seen_from, seen_to = max(low[row] - start, 0), min(high[row], next_block * block_size) - start
            if seen_from < seen_to:
                for lane in range(row * group, (row + 1) * group):
                    _soften(scratch, lane, seen_from, seen_to)
        for index in range(block, next_block):
            values = _readable(heads, scratch, heads.values + table[index - table_first] * heads.stride, 0)
            _add_block(heads, scratch, first_row, stop_row, values, index * block_size, start)
        block = next_block


@numba.njit(cache=True, nogil=True)
def _ask_for(heads: Heads, blocks: np.ndarray) -> None:
    """Fetch a chunk's keys, then its values, all at once.

    Blocks lie anywhere in memory and are no longer than a page, where the hardware's own prefetching ends: read one
    after another, each would cost the memory's latency again.
    """
    size = heads.block_size * heads.head_dim * heads.item_bytes
    for block in range(blocks.shape[0]):
        prefetch(heads.keys + blocks[block] * heads.stride, size)
    for block in range(blocks.shape[0]):
        prefetch(heads.values + blocks[block] * heads.stride, size)


@numba.njit(cache=True, nogil=True)
def _add_block(
    heads: Heads, scratch: Scratch, first_row: int, stop_row: int, values: int, position: int, start: int
) -> None:
    """Add a block's values to the sums of some rows, those together that see the same of it.

    Args:
        position: of the block's first key. start: of the chunk's first score.
    """
    group, block_size, low, high = heads.group, heads.block_size, scratch.low, scratch.high
    row = first_row
    while row < stop_row:
        seen_from = max(low[row] - position, 0)
        seen_to = min(high[row] - position, block_size)
        next_row = row + 1
        while (
            next_row < stop_row
            and max(low[next_row] - position, 0) == seen_from
            and min(high[next_row] - position, block_size) == seen_to
        ):
            next_row += 1
        if seen_from < seen_to:
            lanes = (next_row - row) * group
            _add_values(heads, scratch, row * group, lanes, values, seen_from, seen_to, position - start)
        row = next_row


@numba.njit(cache=True, nogil=True)
def _attend_tile(
    kv_head: int,
    tile: np.ndarray,
    scratch: Scratch,
    queries: np.ndarray,
    gates: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    positions: np.ndarray,
    windows: np.ndarray,
    context_tables: np.ndarray,
    window_tables: np.ndarray,
    window_first: np.ndarray,
    window_floor: np.ndarray,
    window: int,
    out: np.ndarray,
) -> None:
    context, row_start, rows = tile[0], tile[1], tile[2] - tile[1]
    if rows == 0:
        return  # padding
    kv_heads, head_dim, block_size = key_cache.shape[1], key_cache.shape[2], key_cache.shape[3]
    group = queries.shape[1] // kv_heads
    first_head = kv_head * group
    block_bytes = head_dim * block_size * key_cache.itemsize
    heads = Heads(
        key_cache.ctypes.data + kv_head * block_bytes,
        value_cache.ctypes.data + kv_head * block_bytes,
        kv_heads * block_bytes,
        key_cache.itemsize,
        head_dim,
        block_size,
        group,
    )
    scale = np.float32(1.0 / np.sqrt(head_dim))
    for row in range(rows):
        scratch.low[row], scratch.high[row] = 0, positions[row_start + row] + 1
        for member in range(group):
            for d in range(head_dim):
                scratch.queries[row * group + member, d] = (
                    queries[row_start + row, first_head + member, d] * scale
                )
    _walk(heads, scratch, 0, rows, context_tables[context], 0)
    for row in range(rows):
        for member in range(group):
            lane, share = row * group + member, _ONE
            if windows[row_start + row] > 0:
                share = gates[row_start + row, first_head + member]
            share /= scratch.totals[lane]
            for d in range(head_dim):
                out[row_start + row, first_head + member, d] = scratch.sums[lane, d] * share

    row = 0
    while row < rows:
        own, next_row = windows[row_start + row], row
        while next_row < rows and windows[row_start + next_row] == own:
            next_row += 1
        if own > 0:
            floor = window_floor[context, own - 1]
            for seeing in range(row, next_row):
                scratch.low[seeing] = max(floor, positions[row_start + seeing] - window)
            table, table_first = window_tables[context, own - 1], window_first[context, own - 1]
            _walk(heads, scratch, row, next_row, table, table_first)
            for lane in range(row * group, next_row * group):
                at, head = row_start + lane // group, first_head + lane % group
                share = (_ONE - gates[at, head]) / scratch.totals[lane]
                for d in range(head_dim):
                    out[at, head, d] += scratch.sums[lane, d] * share
        row = next_row


@numba.njit(cache=True, nogil=True)
def attend_share(
    thread: int,
    threads: int,
    queries: np.ndarray,
    gates: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    tiles: np.ndarray,
    positions: np.ndarray,
    windows: np.ndarray,
    context_tables: np.ndarray,
    window_tables: np.ndarray,
    window_first: np.ndarray,
    window_floor: np.ndarray,
    window: int,
    out: np.ndarray,
) -> None:
    """One thread's share of `attend`. The only share, 0 of 1, wakes no other thread.

    Late tiles of a prompt see more keys: dealing the items out like cards balances the shares.
    """
    kv_heads, head_dim, block_size = key_cache.shape[1], key_cache.shape[2], key_cache.shape[3]
    most_rows = 0
    for index in range(tiles.shape[0]):
        most_rows = max(most_rows, tiles[index, 2] - tiles[index, 1])
    scratch = _scratch(most_rows, queries.shape[1] // kv_heads, head_dim, block_size, key_cache.itemsize)
    for item in range(thread, tiles.shape[0] * kv_heads, threads):
        _attend_tile(
            item % kv_heads,
            tiles[item // kv_heads],
            scratch,
            queries,
            gates,
            key_cache,
            value_cache,
            positions,
            windows,
            context_tables,
            window_tables,
            window_first,
            window_floor,
            window,
            out,
        )


@numba.njit(cache=True, nogil=True, parallel=True)
def attend(
    threads: int,
    queries: np.ndarray,
    gates: np.ndarray,
    key_cache: np.ndarray,
    value_cache: np.ndarray,
    tiles: np.ndarray,
    positions: np.ndarray,
    windows: np.ndarray,
    context_tables: np.ndarray,
    window_tables: np.ndarray,
    window_first: np.ndarray,
    window_floor: np.ndarray,
    window: int,
    out: np.ndarray,
) -> None:
    """Gated attention of all tiles, see `kernels.interface`.

    Args:
        queries, out: ``[rows, heads, head_dim]``.
        key_cache: ``[blocks, kv_heads, head_dim, block_size]``, float32 or bfloat16's bits.
        value_cache: ``[blocks, kv_heads, block_size, head_dim]``.
        gates, tiles, positions and so on: as in `RowBatch`.
    """
    for thread in numba.prange(threads):
        attend_share(
            thread,
            threads,
            queries,
            gates,
            key_cache,
            value_cache,
            tiles,
            positions,
            windows,
            context_tables,
            window_tables,
            window_first,
            window_floor,
            window,
            out,
        )

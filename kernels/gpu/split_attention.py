"""Decode attention over long contexts: the keys are split over programs, and a second kernel merges what they found.

Part 0 of a decode tile is its windows, part n > 0 the n-th run of `SPLIT_KEYS` keys of its context. The length of a
part is fixed, not their number, so neither the batch nor the device changes a result; a context that fits one part
gives the same bits as `tile_attention`.
"""

import triton
import triton.language as tl

from kernels.gpu.e4m3 import stored_scale
from kernels.gpu.tile import load_queries, store_attended, tile_lanes, walk_windows
from kernels.gpu.walk import walk


@triton.jit(do_not_specialize=["context_width", "window_width"])
def partial_attention(
    queries,
    keys,
    values,
    key_scales,
    tiles,
    parts,
    positions,
    windows,
    context_tables,
    window_tables,
    window_first,
    window_floor,
    partial_acc,
    partial_state,
    context_width,
    window_width,
    score_scale,
    WINDOW: tl.constexpr,
    NUM_WINDOWS: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    KEYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Grid (parts, KV_HEADS). Arguments as `tile_attention`, and:

    Args:
        parts: ``[parts, 2]`` of `RowBatch`; a part of tile -1 does nothing.
        partial_acc: float32 ``[parts, KV_HEADS, LANES, PADDED_DIM]``, not yet divided by the totals.
        partial_state: float32 ``[parts, KV_HEADS, 2, LANES]``: highest score, sum of exponentials.
        SPLIT_KEYS: keys of a part, a multiple of KEYS.
    """
    index = tl.program_id(0)
    kv_head = tl.program_id(1)
    tile = tl.load(parts + index * 2)
    part = tl.load(parts + index * 2 + 1)
    if tile < 0:
        return
    context, rows, heads, active = tile_lanes(tiles, tile, kv_head, HEADS // KV_HEADS, LANES)
    position = tl.load(positions + rows, mask=active, other=-1)
    window = tl.load(windows + rows, mask=active, other=0)
    query = load_queries(queries, rows, heads, active, HEADS, HEAD_DIM, PADDED_DIM)
    score_scale *= stored_scale(key_scales, keys, kv_head)
    if part == 0:
        highest, total, acc = walk_windows(
            query,
            keys,
            values,
            window_tables,
            window_first,
            window_floor,
            window_width,
            context,
            position,
            window,
            active,
            kv_head,
            score_scale,
            WINDOW,
            NUM_WINDOWS,
            HEAD_DIM,
            PADDED_DIM,
            KV_HEADS,
            BLOCK_SIZE,
            KEYS,
            LANES,
        )
    else:
        least = (part - 1) * SPLIT_KEYS
        highest, total, acc = walk(
            query,
            tl.full((LANES,), float("-inf"), tl.float32),
            tl.zeros((LANES,), tl.float32),
            tl.zeros((LANES, PADDED_DIM), tl.float32),
            keys,
            values,
            context_tables + context.to(tl.int64) * context_width,
            0,
            tl.zeros((LANES,), tl.int32),
            position,
            least,
            tl.minimum(least + SPLIT_KEYS, tl.max(position, 0) + 1),
            kv_head,
            score_scale,
            HEAD_DIM,
            PADDED_DIM,
            KV_HEADS,
            BLOCK_SIZE,
            KEYS,
        )
    lanes = tl.arange(0, LANES)
    dims = tl.arange(0, PADDED_DIM)
    where = index.to(tl.int64) * KV_HEADS + kv_head
    tl.store(partial_acc + (where * LANES + lanes[:, None]) * PADDED_DIM + dims[None, :], acc)
    tl.store(partial_state + where * 2 * LANES + lanes, highest)
    tl.store(partial_state + (where * 2 + 1) * LANES + lanes, total)


@triton.jit
def merge_parts(
    partial_acc,
    partial_state,
    gates,
    values,
    value_scales,
    tiles,
    part_starts,
    positions,
    windows,
    out,
    NUM_WINDOWS: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Grid (decode tiles, KV_HEADS): merge the tile's parts in order, apply the gate, write ``out``.

    Args:
        values: the cache, for its type only.
        part_starts: ``[decode tiles]``: index of each tile's part 0.
    """
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    _, rows, heads, active = tile_lanes(tiles, tile, kv_head, HEADS // KV_HEADS, LANES)
    position = tl.load(positions + rows, mask=active, other=-1)
    window = tl.load(windows + rows, mask=active, other=0)
    lanes = tl.arange(0, LANES)
    dims = tl.arange(0, PADDED_DIM)
    first = tl.load(part_starts + tile).to(tl.int64)
    highest = tl.full((LANES,), float("-inf"), tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    acc = tl.zeros((LANES, PADDED_DIM), tl.float32)
    num_parts = tl.cdiv(tl.max(position, 0) + 1, SPLIT_KEYS)
    for part in range(1, num_parts + 1):
        where = (first + part) * KV_HEADS + kv_head
        part_highest = tl.load(partial_state + where * 2 * LANES + lanes)
        part_total = tl.load(partial_state + (where * 2 + 1) * LANES + lanes)
        part_acc = tl.load(partial_acc + (where * LANES + lanes[:, None]) * PADDED_DIM + dims[None, :])
        risen = tl.maximum(highest, part_highest)
        level = tl.where(risen == float("-inf"), 0.0, risen)
        shrink = tl.exp2(highest - level)
        part_shrink = tl.exp2(part_highest - level)
        total = total * shrink + part_total * part_shrink
        acc = acc * shrink[:, None] + part_acc * part_shrink[:, None]
        highest = risen
    where = first * KV_HEADS + kv_head
    local_total = tl.load(partial_state + (where * 2 + 1) * LANES + lanes)
    local_acc = tl.load(partial_acc + (where * LANES + lanes[:, None]) * PADDED_DIM + dims[None, :])
    store_attended(
        out,
        acc,
        total,
        local_acc,
        local_total,
        gates,
        stored_scale(value_scales, values, kv_head),
        rows,
        heads,
        window,
        active,
        NUM_WINDOWS,
        HEADS,
        HEAD_DIM,
        PADDED_DIM,
    )

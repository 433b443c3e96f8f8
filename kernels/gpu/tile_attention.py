"""Gated attention of whole tiles, in one program per (tile, KV head): prefill, and decode of contexts that one program
walks alone.

A decode tile packs the rows of a context's newest token, R of them where later loops have windows: ``group × R`` lanes
share one read of loop 0's K/V. A prefill tile packs consecutive rows of one loop. Each later loop's window is walked by
the same program, and the gate applied before anything is stored.
"""

import triton
import triton.language as tl

from kernels.gpu.e4m3 import stored_scale
from kernels.gpu.tile import load_queries, store_attended, tile_lanes, walk_windows
from kernels.gpu.walk import walk


@triton.jit(do_not_specialize=["first_tile", "context_width", "window_width"])
def tile_attention(
    queries,
    gates,
    keys,
    values,
    key_scales,
    value_scales,
    tiles,
    positions,
    windows,
    context_tables,
    window_tables,
    window_first,
    window_floor,
    out,
    first_tile,
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
    KEYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Grid (tiles, KV_HEADS). Tensors as in `RowBatch` and `LayerCache`.

    Args:
        queries, out: ``[rows, HEADS, HEAD_DIM]``.
        gates: float32 ``[rows, HEADS]``.
        key_scales, value_scales: float32 ``[KV_HEADS]``: what a stored key or value is multiplied by.
        first_tile: tile of program 0.
        context_width, window_width: last dimension of the block tables.
        score_scale: log2(e) / √head_dim.
        PADDED_DIM: HEAD_DIM rounded up to a power of two.
        LANES: lanes of a program, at least the tile's rows · HEADS / KV_HEADS.
    """
    tile = first_tile + tl.program_id(0)
    kv_head = tl.program_id(1)
    context, rows, heads, active = tile_lanes(tiles, tile, kv_head, HEADS // KV_HEADS, LANES)
    position = tl.load(positions + rows, mask=active, other=-1)
    window = tl.load(windows + rows, mask=active, other=0)
    query = load_queries(queries, rows, heads, active, HEADS, HEAD_DIM, PADDED_DIM)
    score_scale *= stored_scale(key_scales, keys, kv_head)
    _, total, acc = walk(
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
        0,
        tl.max(position, 0) + 1,
        kv_head,
        score_scale,
        HEAD_DIM,
        PADDED_DIM,
        KV_HEADS,
        BLOCK_SIZE,
        KEYS,
    )
    local_total, local_acc = total, acc
    if NUM_WINDOWS > 0:
        _, local_total, local_acc = walk_windows(
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

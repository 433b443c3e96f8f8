"""A tile's lanes: which rows and heads a program computes, and their attention to their own windows."""

import triton
import triton.language as tl

from kernels.gpu.arithmetic import round_to
from kernels.gpu.walk import walk


@triton.jit
def tile_lanes(tiles, tile, kv_head, GROUP: tl.constexpr, LANES: tl.constexpr):
    """Lanes of a tile: lane n is query head n % GROUP of the tile's row n // GROUP.

    Returns:
        context, rows ``[LANES]``, heads ``[LANES]``, active ``[LANES]`` (lanes beyond the tile's rows are not).
    """
    context = tl.load(tiles + tile * 3)
    lanes = tl.arange(0, LANES)
    rows = tl.load(tiles + tile * 3 + 1) + lanes // GROUP
    return context, rows, kv_head * GROUP + lanes % GROUP, rows < tl.load(tiles + tile * 3 + 2)


@triton.jit
def load_queries(
    queries, rows, heads, active, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr
):
    """``[lanes, PADDED_DIM]`` of ``[rows, HEADS, HEAD_DIM]``; zero for inactive lanes."""
    dims = tl.arange(0, PADDED_DIM)
    offsets = (rows.to(tl.int64) * HEADS + heads) * HEAD_DIM
    mask = active[:, None] & (dims[None, :] < HEAD_DIM)
    return tl.load(queries + offsets[:, None] + dims[None, :], mask=mask, other=0.0)


@triton.jit
def walk_windows(
    query,
    keys,
    values,
    window_tables,
    window_first,
    window_floor,
    window_width,
    context,
    positions,
    windows,
    active,
    kv_head,
    score_scale,
    WINDOW: tl.constexpr,
    NUM_WINDOWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Every lane that has a window over that window's positions ``[max(floor, i - WINDOW), i]``.

    Returns:
        highest, total, acc as `walk`; lanes without a window have seen nothing.
    """
    highest = tl.full((LANES,), float("-inf"), tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    acc = tl.zeros((LANES, PADDED_DIM), tl.float32)
    for number in range(1, NUM_WINDOWS + 1):
        window = context * NUM_WINDOWS + number - 1
        mine = active & (windows == number)
        stop = tl.max(tl.where(mine, positions, -1), 0) + 1
        if stop > 0:
            floor = tl.load(window_floor + window)
            low = tl.maximum(positions - WINDOW, floor)
            highest, total, acc = walk(
                query,
                highest,
                total,
                acc,
                keys,
                values,
                window_tables + window.to(tl.int64) * window_width,
                tl.load(window_first + window),
                tl.where(mine, low, 1),
                tl.where(mine, positions, 0),
                tl.min(tl.where(mine, low, stop), 0),
                stop,
                kv_head,
                score_scale,
                HEAD_DIM,
                PADDED_DIM,
                KV_HEADS,
                BLOCK_SIZE,
                KEYS,
            )
    return highest, total, acc


@triton.jit
def store_attended(
    out,
    acc,
    total,
    local_acc,
    local_total,
    gates,
    value_scale,
    rows,
    heads,
    windows,
    active,
    NUM_WINDOWS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
):
    """Divide by the totals and write ``far``, or with a window ``g · far + (1 - g) · local``.

    Args:
        acc, total: what `walk` found in the context (far); local_acc, local_total: in the windows.
        value_scale: factor of the values.
    """
    dims = tl.arange(0, PADDED_DIM)
    lanes = rows.to(tl.int64) * HEADS + heads
    attended = acc / tl.where(active, total, 1.0)[:, None]
    if NUM_WINDOWS > 0:
        has_window = active & (windows > 0)
        local = local_acc / tl.where(has_window, local_total, 1.0)[:, None]
        gate = tl.load(gates + lanes, mask=has_window, other=1.0)[:, None]
        attended = tl.where(has_window[:, None], gate * attended + (1.0 - gate) * local, attended)
    mask = active[:, None] & (dims[None, :] < HEAD_DIM)
    pointers = out + lanes[:, None] * HEAD_DIM + dims[None, :]
    tl.store(pointers, round_to(attended * value_scale, out.dtype.element_ty), mask=mask)

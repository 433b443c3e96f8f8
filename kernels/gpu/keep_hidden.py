"""Stores the H vectors that later passes read."""

import triton
import triton.language as tl


@triton.jit
def keep_hidden(
    hidden,
    carries,
    block_hidden,
    output_slots,
    snapshot_blocks,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows, cdiv(HIDDEN, BLOCK)): copy a row to its carry slot and beside its block; -1 means nowhere.

    Args:
        hidden: ``[rows, HIDDEN]``. carries: ``[slots, HIDDEN]``. block_hidden: ``[blocks, HIDDEN]``.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    slot = tl.load(output_slots + row).to(tl.int64)
    block = tl.load(snapshot_blocks + row).to(tl.int64)
    if (slot >= 0) | (block >= 0):
        x = tl.load(hidden + row * HIDDEN + columns, mask=inside, other=0.0)
        if slot >= 0:
            tl.store(carries + slot * HIDDEN + columns, x, mask=inside)
        if block >= 0:
            tl.store(block_hidden + block * HIDDEN + columns, x, mask=inside)

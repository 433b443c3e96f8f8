"""The inner loop of every attention kernel: query lanes walk the keys of a block table.

A **lane** is one (row, query head) pair; the lanes of a program share a KV head, so its keys and values are read once
for all of them, whatever their loops. Keys are taken in chunks that start at multiples of `KEYS` in absolute position,
so what a lane computes depends on its own range only, not on the tile or the batch around it.
"""

import triton
import triton.language as tl

from kernels.gpu.arithmetic import dot, round_to
from kernels.gpu.e4m3 import decode_e4m3


@triton.jit
def walk(
    queries,
    highest,
    total,
    acc,
    keys,
    values,
    table,
    first_block,
    low,
    high,
    least,
    stop,
    kv_head,
    score_scale,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Fold positions ``least … stop - 1`` into the lanes' running softmax (arXiv 1805.02867).

    Args:
        queries: ``[lanes, PADDED_DIM]`` in the compute dtype.
        highest, total: float32 ``[lanes]``: running maximum of the scores (base 2) and sum of their exponentials.
        acc: float32 ``[lanes, PADDED_DIM]``: running sum of weighted values.
        keys, values: pointers to ``[num_blocks, KV_HEADS, BLOCK_SIZE, HEAD_DIM]``.
        table: pointer to block ids; its entry 0 is block index `first_block`.
        low, high: ``[lanes]``: first and last position that a lane sees; low > high sees none.
        least: no key before it is read, for it may be another sequence's by now (and not a number).
        score_scale: factor of the scores: log2(e) / √head_dim, and the keys' scale.

    Returns:
        highest, total, acc.
    """
    dims = tl.arange(0, PADDED_DIM)
    for chunk in range(least // KEYS * KEYS, stop, KEYS):
        positions = chunk + tl.arange(0, KEYS)
        known = (positions >= least) & (positions < stop)
        blocks = tl.load(table + positions // BLOCK_SIZE - first_block, mask=known, other=0).to(tl.int64)
        offsets = ((blocks * KV_HEADS + kv_head) * BLOCK_SIZE + positions % BLOCK_SIZE) * HEAD_DIM
        key = tl.load(
            keys + offsets[None, :] + dims[:, None],
            mask=known[None, :] & (dims[:, None] < HEAD_DIM),
            other=0,
        )
        if key.dtype == tl.uint8:
            key = decode_e4m3(key)
        scores = (
            dot(queries, key.to(queries.dtype), tl.zeros((queries.shape[0], KEYS), tl.float32)) * score_scale
        )
        seen = (positions[None, :] >= low[:, None]) & (positions[None, :] <= high[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, 1))
        # A lane that has seen no key yet has no maximum; 0 in its place keeps -inf - -inf out of the exponents.
        level = tl.where(risen == float("-inf"), 0.0, risen)
        weights = tl.exp2(scores - level[:, None])
        shrink = tl.exp2(highest - level)
        value = tl.load(
            values + offsets[:, None] + dims[None, :],
            mask=known[:, None] & (dims[None, :] < HEAD_DIM),
            other=0,
        )
        if value.dtype == tl.uint8:
            value = decode_e4m3(value)
        value = value.to(queries.dtype)
        total = total * shrink + tl.sum(weights, 1)
        acc = dot(round_to(weights, value.dtype), value, acc * shrink[:, None])
        highest = risen
    return highest, total, acc

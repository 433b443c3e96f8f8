"""RoPE on q and k, fused with the scatter of k and v into the paged cache: q, k and v are read once."""

import triton
import triton.language as tl

from kernels.gpu.arithmetic import round_to
from kernels.gpu.e4m3 import encode_e4m3


@triton.jit
def rotate_and_write(
    qkv,
    cos,
    sin,
    positions,
    cache_slots,
    keys,
    values,
    key_scales,
    value_scales,
    queries,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF_DIM: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """Grid (rows, cdiv(HEADS + 2 · KV_HEADS, BLOCK_HEADS)). Rotate-half form (arXiv 2104.09864).

    Args:
        qkv: ``[rows, HEADS + 2 · KV_HEADS, 2 · HALF_DIM]``.
        cos, sin: float32 ``[max_len, HALF_DIM]``.
        keys, values: ``[num_blocks, KV_HEADS, BLOCK_SIZE, 2 · HALF_DIM]``; uint8 takes e4m3.
        key_scales, value_scales: float32 ``[KV_HEADS]``: what a stored element is divided by.
        queries: out, ``[rows, HEADS, 2 · HALF_DIM]``.
    """
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    dims = tl.arange(0, PADDED_HALF)
    in_half = dims[None, :] < HALF_DIM
    inside = (heads < HEADS + 2 * KV_HEADS)[:, None] & in_half
    source = ((row * (HEADS + 2 * KV_HEADS) + heads) * 2 * HALF_DIM)[:, None] + dims[None, :]
    first = tl.load(qkv + source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(qkv + source + HALF_DIM, mask=inside, other=0.0).to(tl.float32)

    angle = tl.load(positions + row).to(tl.int64) * HALF_DIM + dims
    row_cos = tl.load(cos + angle, mask=dims < HALF_DIM, other=0.0)[None, :]
    row_sin = tl.load(sin + angle, mask=dims < HALF_DIM, other=0.0)[None, :]
    turned_first = first * row_cos - second * row_sin
    turned_second = second * row_cos + first * row_sin

    is_query = (heads < HEADS)[:, None] & in_half
    target = queries + ((row * HEADS + heads) * 2 * HALF_DIM)[:, None] + dims[None, :]
    tl.store(target, round_to(turned_first, queries.dtype.element_ty), mask=is_query)
    tl.store(target + HALF_DIM, round_to(turned_second, queries.dtype.element_ty), mask=is_query)

    slot = tl.load(cache_slots + row).to(tl.int64)
    if slot >= 0:
        is_key = (heads >= HEADS) & (heads < HEADS + KV_HEADS)
        is_value = (heads >= HEADS + KV_HEADS) & (heads < HEADS + 2 * KV_HEADS)
        key_head = tl.where(is_key, heads - HEADS, 0)
        value_head = tl.where(is_value, heads - HEADS - KV_HEADS, 0)
        start = slot // BLOCK_SIZE * KV_HEADS * BLOCK_SIZE + slot % BLOCK_SIZE
        key_target = keys + ((start + key_head * BLOCK_SIZE) * 2 * HALF_DIM)[:, None] + dims[None, :]
        value_target = values + ((start + value_head * BLOCK_SIZE) * 2 * HALF_DIM)[:, None] + dims[None, :]
        key_scale = tl.load(key_scales + key_head)[:, None]
        value_scale = tl.load(value_scales + value_head)[:, None]
        key_mask = is_key[:, None] & in_half
        value_mask = is_value[:, None] & in_half
        store_elements(key_target, turned_first, key_scale, queries.dtype.element_ty, key_mask)
        store_elements(key_target + HALF_DIM, turned_second, key_scale, queries.dtype.element_ty, key_mask)
        store_elements(value_target, first, value_scale, queries.dtype.element_ty, value_mask)
        store_elements(value_target + HALF_DIM, second, value_scale, queries.dtype.element_ty, value_mask)


@triton.jit
def store_elements(target, x, scale, COMPUTE: tl.constexpr, mask):
    """Store float32 values in the cache's type, as if they had been COMPUTE before."""
    x = round_to(x, COMPUTE).to(tl.float32)
    if target.dtype.element_ty == tl.uint8:
        tl.store(target, encode_e4m3(x / scale), mask=mask)
    else:
        tl.store(target, round_to(x, target.dtype.element_ty), mask=mask)

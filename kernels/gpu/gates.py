"""PLT's gates (arXiv 2510.24824): the weight of the shared part, per row and head."""

import triton
import triton.language as tl

from kernels.gpu.arithmetic import dot, round_to


@triton.jit(do_not_specialize=["num_rows"])
def hidden_gates(
    x,
    norm,
    weight,
    bias,
    out,
    num_rows,
    eps,
    HIDDEN: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Grid (cdiv(rows, ROWS), cdiv(HEADS, BLOCK_HEADS)): RMSNorm, product and sigmoid in one pass over the rows' state.

    Args:
        x: ``[rows, HIDDEN]``. norm: ``[HIDDEN]``. weight: ``[HEADS, HIDDEN]``. bias: ``[HEADS]``.
        out: float32 ``[rows, HEADS]``.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    starts = rows.to(tl.int64) * HIDDEN
    squares = tl.zeros((ROWS,), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        columns = first + tl.arange(0, CHUNK)
        mask = (rows < num_rows)[:, None] & (columns < HIDDEN)[None, :]
        chunk = tl.load(x + starts[:, None] + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        squares += tl.sum(chunk * chunk, 1)
    scale = tl.rsqrt(squares / HIDDEN + eps)[:, None]
    dots = tl.zeros((ROWS, BLOCK_HEADS), tl.float32)
    for first in range(0, HIDDEN, CHUNK):
        columns = first + tl.arange(0, CHUNK)
        inside = columns < HIDDEN
        mask = (rows < num_rows)[:, None] & inside[None, :]
        chunk = tl.load(x + starts[:, None] + columns[None, :], mask=mask, other=0.0)
        gain = tl.load(norm + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        normed = round_to(chunk.to(tl.float32) * scale * gain, chunk.dtype)
        head_weight = tl.load(
            weight + heads[None, :] * HIDDEN + columns[:, None],
            mask=(heads < HEADS)[None, :] & inside[:, None],
            other=0.0,
        )
        dots = dot(normed, head_weight, dots)
    dots += tl.load(bias + heads, mask=heads < HEADS, other=0.0).to(tl.float32)[None, :]
    mask = (rows < num_rows)[:, None] & (heads < HEADS)[None, :]
    tl.store(out + rows.to(tl.int64)[:, None] * HEADS + heads[None, :], tl.sigmoid(dots), mask=mask)


@triton.jit
def query_gates(
    queries,
    weight,
    bias,
    out,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    PADDED_DIM: tl.constexpr,
):
    """Grid (rows,): ``sigmoid(weight[h] · q[h] + bias[h])``.

    Args:
        queries: ``[rows, HEADS, HEAD_DIM]``, rotated. weight: ``[HEADS, HEAD_DIM]``. bias: ``[HEADS]``.
        out: float32 ``[rows, HEADS]``.
    """
    row = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, PADDED_HEADS)
    dims = tl.arange(0, PADDED_DIM)
    mask = (heads < HEADS)[:, None] & (dims < HEAD_DIM)[None, :]
    offsets = heads[:, None] * HEAD_DIM + dims[None, :]
    query = tl.load(queries + row * HEADS * HEAD_DIM + offsets, mask=mask, other=0.0).to(tl.float32)
    dots = tl.sum(query * tl.load(weight + offsets, mask=mask, other=0.0).to(tl.float32), 1)
    dots += tl.load(bias + heads, mask=heads < HEADS, other=0.0).to(tl.float32)
    tl.store(out + row * HEADS + heads, tl.sigmoid(dots), mask=heads < HEADS)

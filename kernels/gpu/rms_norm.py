"""RMSNorm (arXiv 1910.07467), with the residual addition that precedes it."""

import triton
import triton.language as tl

from kernels.gpu.arithmetic import round_to


@triton.jit
def rms_norm(x, delta, weight, total, out, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr):
    """Grid (rows,): ``total = x + delta`` if ADD, and ``out = rms_norm(total) · weight``.

    Args:
        x, delta, total, out: ``[rows, HIDDEN]``; `total` may be `x`. Without ADD, `delta` and `total` are not used.
        BLOCK: HIDDEN rounded up to a power of two: a row is one block.
    """
    start = tl.program_id(0).to(tl.int64) * HIDDEN
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    row = tl.load(x + start + columns, mask=inside, other=0.0)
    if ADD:
        added = row.to(tl.float32) + tl.load(delta + start + columns, mask=inside, other=0.0).to(tl.float32)
        row = round_to(added, row.dtype)
        tl.store(total + start + columns, row, mask=inside)
    wide = row.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / HIDDEN + eps)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + columns, round_to(wide * scale * gain, row.dtype), mask=inside)

"""SwiGLU's product (arXiv 2002.05202)."""

import triton
import triton.language as tl

from kernels.gpu.arithmetic import round_to


@triton.jit
def silu_mul(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (rows, cdiv(WIDTH, BLOCK)): ``silu(gate) · up`` of ``[rows, gate | up]``, ``[rows, 2 · WIDTH]``."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + columns, round_to(product, out.dtype.element_ty), mask=inside)

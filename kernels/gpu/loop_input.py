"""Cross-loop input: embedding and the previous loop's state, gathered and mixed in one kernel."""

import triton
import triton.language as tl

from kernels.gpu.arithmetic import round_to


@triton.jit
def loop_input(
    embedding,
    carries,
    token_ids,
    loops,
    input_slots,
    out,
    emb_scale,
    hidden_scale,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows, cdiv(HIDDEN, BLOCK)): ``E[t]``, or ``emb_scale · E[t] + hidden_scale · carries[slot]`` after loop 0.

    Args:
        embedding: ``[vocab, HIDDEN]``.
        carries: ``[slots, HIDDEN]``.
        out: ``[rows, HIDDEN]``.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    token = tl.load(token_ids + row).to(tl.int64)
    x = tl.load(embedding + token * HIDDEN + columns, mask=inside, other=0.0)
    if tl.load(loops + row) > 0:
        slot = tl.load(input_slots + row).to(tl.int64)
        hidden = tl.load(carries + slot * HIDDEN + columns, mask=inside, other=0.0)
        x = round_to(x.to(tl.float32) * emb_scale + hidden.to(tl.float32) * hidden_scale, x.dtype)
    tl.store(out + row * HIDDEN + columns, x, mask=inside)

"""Attention as the formula says, in float64, with a bound on what a kernel's rounding may change."""

from dataclasses import dataclass

import torch

from kernels import e4m3
from tests.kernels.batches import KernelCase

FLOAT32 = 2.0**-24
UNIT_ROUNDOFF = {torch.float32: FLOAT32, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class Dense:
    """float64 ``[rows, heads · head_dim]`` each."""

    out: torch.Tensor
    bound: torch.Tensor


def dense_attend(case: KernelCase) -> Dense:
    """Every row's result and the error that float32 sums and one rounding of the weights and of the result can make.

    With u the unit roundoff of the compute dtype and e that of float32, an average ``o = Σ w·v`` comes out wrong by at
    most ``(u + 2·d + (n + 8)·e) · Σ w·|v|``: u from rounding the weights before they meet v; d = (D + 8)·e·max(scale ·
    Σ|q·k|) is the error of a score, a relative error of its weight, twice because the weights are normalised; n·e from
    n sums, 8·e from exponentials and the merging of parts. Writing the mixture costs u·|o| once more.
    """
    batch, unit = case.batch, UNIT_ROUNDOFF[case.queries.dtype]
    out = torch.empty(case.queries.shape, dtype=torch.float64)
    bound = torch.empty_like(out)
    for sequence, first, stop in batch.tiles.tolist():
        for row in range(first, stop):
            position, loop = int(batch.positions[row]), int(batch.loops[row])
            mixed, error = _average(case, row, batch.context_tables[sequence], 0, 0, position)
            if loop:
                begin = int(batch.window_first[sequence, loop - 1])
                low = max(int(batch.window_floor[sequence, loop - 1]), position - batch.window)
                table = batch.window_tables[sequence, loop - 1]
                local, local_error = _average(case, row, table, begin, low, position)
                gate = case.gates[row].double()[:, None]
                mixed = gate * mixed + (1 - gate) * local
                error = gate * error + (1 - gate) * local_error
            out[row], bound[row] = mixed, error + (unit + 8 * FLOAT32) * mixed.abs()
    return Dense(out.flatten(1), bound.flatten(1))


def _average(
    case: KernelCase, row: int, table: torch.Tensor, first_block: int, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean of the values at positions ``low … high``, and its bound; ``[heads, head_dim]``."""
    cache, query = case.cache, case.queries[row].double()
    positions = torch.arange(low, high + 1)
    blocks, offsets = table[positions // cache.block_size - first_block].long(), positions % cache.block_size
    group = len(query) // cache.num_kv_heads

    def gather(stored: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        wide = stored.double() if scales is None else e4m3.decode(stored, scales).double()
        return wide[blocks, :, offsets].transpose(0, 1).repeat_interleave(group, 0)

    keys, values = gather(cache.keys, cache.key_scales), gather(cache.values, cache.value_scales)
    scale = query.shape[1] ** -0.5
    weights = (torch.einsum("hd,hkd->hk", query, keys) * scale).softmax(1)
    largest = torch.einsum("hd,hkd->hk", query.abs(), keys.abs()).amax(1) * scale
    score_error = (query.shape[1] + 8) * FLOAT32 * largest
    relative = UNIT_ROUNDOFF[case.queries.dtype] + 2 * score_error + (len(positions) + 8) * FLOAT32
    mean = torch.einsum("hk,hkd->hd", weights, values)
    return mean, relative[:, None] * torch.einsum("hk,hkd->hd", weights, values.abs())

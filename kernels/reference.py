"""Attention in plain torch, written to be read: what every other backend is tested against."""

import torch

from kernels.interface import AttentionBatch, LayerCache


class ReferenceAttention:
    """Gathers each row's keys and values and computes its softmax as the formula says."""

    name = "reference"

    def write(
        self, cache: LayerCache, keys: torch.Tensor, values: torch.Tensor, batch: AttentionBatch
    ) -> None:
        rows = (batch.slots >= 0).nonzero().squeeze(1)
        slots = batch.slots[rows]
        blocks, offsets = slots // cache.block_size, slots % cache.block_size
        cache.keys[blocks, :, offsets] = keys[rows].to(cache.keys.dtype)
        cache.values[blocks, :, offsets] = values[rows].to(cache.values.dtype)

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: AttentionBatch
    ) -> torch.Tensor:
        out = torch.empty_like(queries)
        for sequence in range(len(batch.row_starts) - 1):
            for row in range(int(batch.row_starts[sequence]), int(batch.row_starts[sequence + 1])):
                position, loop = int(batch.positions[row]), int(batch.loops[row])
                attended = _attend_range(cache, queries[row], batch.shared_tables[sequence], 0, 0, position)
                if loop > 0:
                    assert gates is not None
                    first = int(batch.window_first[sequence, loop - 1])
                    low = max(int(batch.window_floor[sequence, loop - 1]), position - batch.window)
                    table = batch.window_tables[sequence, loop - 1]
                    local = _attend_range(cache, queries[row], table, first, low, position)
                    gate = gates[row].unsqueeze(1)
                    attended = gate * attended + (1 - gate) * local
                out[row] = attended
        return out


def _attend_range(
    cache: LayerCache, query: torch.Tensor, table: torch.Tensor, first_block: int, low: int, high: int
) -> torch.Tensor:
    """Softmax attention of one query ``[num_heads, head_dim]`` over positions ``low … high`` of a block table."""
    block_size = cache.block_size
    blocks = table[low // block_size - first_block : high // block_size - first_block + 1].long()
    inside = slice(low % block_size, low % block_size + high - low + 1)
    group = query.shape[0] // cache.keys.shape[1]
    keys = (
        cache.keys[blocks]
        .transpose(0, 1)
        .flatten(1, 2)[:, inside]
        .to(query.dtype)
        .repeat_interleave(group, 0)
    )
    values = (
        cache.values[blocks]
        .transpose(0, 1)
        .flatten(1, 2)[:, inside]
        .to(query.dtype)
        .repeat_interleave(group, 0)
    )
    scores = torch.einsum("hd,hkd->hk", query, keys) * query.shape[1] ** -0.5
    return torch.einsum("hk,hkd->hd", scores.softmax(dim=-1), values)

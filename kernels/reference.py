"""Every operation in plain torch, written to be read: what the other backends are tested against.

Works on any device and dtype. Sums and softmaxes are float32; each result is rounded once.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from kernels import e4m3
from kernels.interface import HiddenGate, LayerCache, QueryGate, RopeTable, RowBatch, Tiling

UNCUT = 1 << 30
"""Tile height of backends that take whole segments."""


class TorchRowOps:
    """A backend without its attention: the operations that see one row at a time. Segments are never cut."""

    def tiling(self, head_dim: int, group: int, decode_rows: int, dtype: torch.dtype) -> Tiling:
        return Tiling(UNCUT)

    def warm_up(self, cache_dtype: torch.dtype) -> None:
        """Nothing is compiled."""

    def loop_input(
        self,
        embedding: torch.Tensor,
        carries: torch.Tensor,
        batch: RowBatch,
        emb_scale: float,
        hidden_scale: float,
    ) -> torch.Tensor:
        embedded = embedding[batch.token_ids]
        mixed = embedded.float() * emb_scale + carries[batch.input_slots].float() * hidden_scale
        return torch.where(batch.loops[:, None] > 0, mixed.to(embedded.dtype), embedded)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
        return (wide * scale * weight.float()).to(x.dtype)

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = x + delta
        return total, self.rms_norm(total, weight, eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.float().chunk(2, dim=-1)
        return (functional.silu(gate) * up).to(gate_up.dtype)

    def gates(
        self, gate: HiddenGate | QueryGate, x: torch.Tensor, queries: torch.Tensor, eps: float
    ) -> torch.Tensor:
        if isinstance(gate, HiddenGate):
            dots = self.rms_norm(x, gate.norm, eps).float() @ gate.weight.float().T
        else:
            dots = torch.einsum("rhd,hd->rh", queries.float(), gate.weight.float())
        return torch.sigmoid(dots + gate.bias.float())

    def rotate_and_write(
        self, qkv: torch.Tensor, rope: RopeTable, cache: LayerCache, batch: RowBatch
    ) -> torch.Tensor:
        heads = qkv.view(len(qkv), -1, cache.head_dim)
        num_heads = heads.shape[1] - 2 * cache.num_kv_heads
        values = heads[:, num_heads + cache.num_kv_heads :]
        rotated = _rotate(heads[:, : num_heads + cache.num_kv_heads], rope, batch.positions)
        keys = rotated[:, num_heads:]
        if cache.key_scales is not None and cache.value_scales is not None:
            keys, values = e4m3.encode(keys, cache.key_scales), e4m3.encode(values, cache.value_scales)
        blocks, offsets = batch.cache_slots // cache.block_size, batch.cache_slots % cache.block_size
        cache.keys[blocks, :, offsets] = keys.to(cache.keys.dtype)
        cache.values[blocks, :, offsets] = values.to(cache.values.dtype)
        return rotated[:, :num_heads]

    def read_keys(self, cache: LayerCache, blocks: Sequence[int]) -> torch.Tensor:
        return read_blocks(cache.keys, cache.key_scales, torch.tensor(blocks, device=cache.keys.device))

    def keep_hidden(
        self, hidden: torch.Tensor, carries: torch.Tensor, block_hidden: torch.Tensor, batch: RowBatch
    ) -> None:
        carries[batch.output_slots] = hidden
        block_hidden[batch.snapshot_blocks] = hidden


class ReferenceBackend(TorchRowOps):
    """Gathers each row's keys and values and computes its softmax as the formula says."""

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: RowBatch
    ) -> torch.Tensor:
        out = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
        for context, first_row, stop_row in batch.tiles.tolist():
            for row in range(first_row, stop_row):
                position, window = int(batch.positions[row]), int(batch.windows[row])
                query = queries[row].float()
                attended = _attend_range(cache, query, batch.context_tables[context], 0, 0, position)
                if window > 0:
                    assert gates is not None
                    first = int(batch.window_first[context, window - 1])
                    low = max(int(batch.window_floor[context, window - 1]), position - batch.window)
                    table = batch.window_tables[context, window - 1]
                    local = _attend_range(cache, query, table, first, low, position)
                    gate = gates[row].unsqueeze(1)
                    attended = gate * attended + (1 - gate) * local
                out[row] = attended.to(queries.dtype)
        return out.flatten(1)


def read_blocks(stored: torch.Tensor, scales: torch.Tensor | None, blocks: torch.Tensor) -> torch.Tensor:
    """Keys or values of some blocks, whose positions are their rows, one after another.

    Args:
        stored: as in `LayerCache`, each position in one run.
        blocks: int64 ids.

    Returns:
        float32 ``[num_kv_heads, blocks · block_size, head_dim]``.
    """
    found = stored[blocks]
    wide = found.float() if scales is None else e4m3.decode(found, scales)
    return wide.transpose(0, 1).flatten(1, 2)


def _rotate(x: torch.Tensor, rope: RopeTable, positions: torch.Tensor) -> torch.Tensor:
    """Rotate-half (Llama, NeoX) form of RoPE (arXiv 2104.09864): dimension d pairs with d + head_dim / 2."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = rope.cos[positions].unsqueeze(1), rope.sin[positions].unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _attend_range(
    cache: LayerCache, query: torch.Tensor, table: torch.Tensor, first_block: int, low: int, high: int
) -> torch.Tensor:
    """Softmax attention of one float32 query ``[heads, head_dim]`` over positions ``low … high`` of a block table."""
    block_size = cache.block_size
    blocks = table[low // block_size - first_block : high // block_size - first_block + 1].long()
    inside = slice(low % block_size, low % block_size + high - low + 1)
    group = query.shape[0] // cache.num_kv_heads

    def gather(stored: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        return read_blocks(stored, scales, blocks)[:, inside].repeat_interleave(group, 0)

    keys, values = gather(cache.keys, cache.key_scales), gather(cache.values, cache.value_scales)
    scores = torch.einsum("hd,hkd->hk", query, keys) * query.shape[1] ** -0.5
    return torch.einsum("hk,hkd->hd", scores.softmax(dim=-1), values)

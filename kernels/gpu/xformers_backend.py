"""Attention through xFormers, for NVIDIA GPUs where Triton is not wanted. Row operations are plain torch.

The rows of a pass are cut into **segments**: runs of consecutive positions of one loop (every row of a decode tile is
one). A segment attends to its context's keys under a causal mask that ends at its last position, and, if it has a
window, to the keys of that under a banded one; the gate mixes the two.

xFormers wants a page's positions before its heads, the cache has the heads first, so that the other backends read a
head's keys in one run. Two ways around that:

* FlashAttention 3 takes pages of any size: every (block, head) is then a page of its own with one head, and nothing is
  copied;
* the other operators get the keys gathered into one run per segment, which costs a copy of the context per layer.

Windows are short and always gathered. None of this has run on a GPU; the tests replace the operator by its mask.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from xformers.ops import fmha
from xformers.ops.fmha.attn_bias import (
    AttentionBias,
    BlockDiagonalCausalFromBottomRightMask,
    BlockDiagonalCausalLocalAttentionFromBottomRightMask,
    PagedBlockDiagonalCausalWithOffsetPaddedKeysMask,
)

from kernels.interface import LayerCache, RowBatch
from kernels.reference import TorchRowOps

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, AttentionBias], torch.Tensor]
"""`fmha.memory_efficient_attention_forward`: queries ``[1, n, groups, heads, dim]``, keys, values and a mask."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``[first_row, stop_row)`` of one loop, the last of them at position `last`; window 0 is none."""

    context: int
    window: int
    first_row: int
    stop_row: int
    last: int

    @property
    def num_rows(self) -> int:
        return self.stop_row - self.first_row


@dataclass(frozen=True, slots=True)
class Gathered:
    """Keys to gather and the mask over them.

    Attributes:
        rows: int64 ``[n]``, the queries' rows.
        blocks, offsets: int64 ``[keys]``, where each key lies.
    """

    rows: torch.Tensor
    blocks: torch.Tensor
    offsets: torch.Tensor
    bias: AttentionBias


@dataclass(frozen=True, slots=True)
class Paged:
    """Queries in the order of (segment, KV head, row), and the mask with one block table per (segment, KV head).

    Attributes:
        order: int64 ``[rows · kv_heads]``: row · kv_heads + kv_head.
    """

    order: torch.Tensor
    bias: AttentionBias


@dataclass(frozen=True, slots=True)
class PassPlan:
    """What every layer of a pass needs; `windows` is None if no row has one."""

    contexts: Gathered | Paged
    windows: Gathered | None


class XformersBackend(TorchRowOps):
    """float16 and bfloat16, with a cache of the same type.

    Args:
        reads_pages: use the paged mask; by default where FlashAttention 3 is.
        attention: the operator.
    """

    def __init__(
        self, reads_pages: bool | None = None, attention: Attention = fmha.memory_efficient_attention_forward
    ) -> None:
        self.attention = attention
        self.reads_pages = _flash3_reads_pages() if reads_pages is None else reads_pages
        self.planned: tuple[RowBatch, PassPlan] | None = None

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: RowBatch
    ) -> torch.Tensor:
        plan = self._plan(batch, cache)
        if isinstance(plan.contexts, Paged):
            out = self._attend_paged(plan.contexts, cache, queries)
        else:
            out = self._attend_gathered(plan.contexts, cache, queries)
        if plan.windows is not None:
            assert gates is not None
            rows = plan.windows.rows
            local = self._attend_gathered(plan.windows, cache, queries).float()
            gate = gates[rows].unsqueeze(2)
            out[rows] = (gate * out[rows].float() + (1 - gate) * local).to(out.dtype)
        return out.flatten(1)

    def _plan(self, batch: RowBatch, cache: LayerCache) -> PassPlan:
        """The layers of a pass share its plan: reading the batch on the host waits for the device."""
        if self.planned is None or self.planned[0] is not batch:
            self.planned = batch, plan_pass(batch, cache, self.reads_pages)
        return self.planned[1]

    def _attend_gathered(self, plan: Gathered, cache: LayerCache, queries: torch.Tensor) -> torch.Tensor:
        """``[n, heads, head_dim]``."""
        group = queries.shape[1] // cache.num_kv_heads
        selected = queries[plan.rows].view(1, -1, cache.num_kv_heads, group, cache.head_dim)
        keys, values = (
            stored[plan.blocks, :, plan.offsets].unsqueeze(2).expand(-1, -1, group, -1).unsqueeze(0)
            for stored in (cache.keys, cache.values)
        )
        return self.attention(selected, keys, values, plan.bias).view(-1, queries.shape[1], cache.head_dim)

    def _attend_paged(self, plan: Paged, cache: LayerCache, queries: torch.Tensor) -> torch.Tensor:
        """``[rows, heads, head_dim]``."""
        group = queries.shape[1] // cache.num_kv_heads
        by_kv_head = queries.reshape(-1, group, cache.head_dim)
        keys, values = (
            stored.view(1, -1, 1, 1, cache.head_dim).expand(-1, -1, -1, group, -1)
            for stored in (cache.keys, cache.values)
        )
        attended = self.attention(by_kv_head[plan.order][None, :, None], keys, values, plan.bias)
        out = torch.empty_like(by_kv_head)
        out[plan.order] = attended.view(-1, group, cache.head_dim)
        return out.view(queries.shape)


def plan_pass(batch: RowBatch, cache: LayerCache, reads_pages: bool) -> PassPlan:
    """Segments, masks and places of all keys of a pass."""
    segments = cut_segments(batch)
    with_window = [segment for segment in segments if segment.window > 0]
    contexts = _paged(segments, batch, cache) if reads_pages else _contexts(segments, batch, cache.block_size)
    return PassPlan(contexts, _windows(with_window, batch, cache.block_size) if with_window else None)


def cut_segments(batch: RowBatch) -> list[Segment]:
    """By first row; together they hold every row once."""
    positions, windows = batch.positions.tolist(), batch.windows.tolist()
    runs: list[tuple[int, int, int]] = []
    for index, (context, first, stop) in enumerate(batch.tiles.tolist()):
        if index < batch.num_decode_tiles:
            runs += [(context, row, row + 1) for row in range(first, stop)]
        else:
            runs.append((context, first, stop))
    return [
        Segment(context, windows[first], first, stop, positions[stop - 1])
        for context, first, stop in sorted(runs, key=lambda run: run[1])
    ]


def _contexts(segments: list[Segment], batch: RowBatch, block_size: int) -> Gathered:
    tables = batch.context_tables.cpu().long()
    spans = [torch.arange(segment.last + 1) for segment in segments]
    blocks = [tables[s.context, span // block_size] for s, span in zip(segments, spans, strict=True)]
    device = batch.positions.device
    bias = BlockDiagonalCausalFromBottomRightMask.from_seqlens(
        [segment.num_rows for segment in segments], [len(span) for span in spans], device=device
    )
    rows = torch.arange(len(batch.positions), device=device)
    return Gathered(rows, torch.cat(blocks).to(device), torch.cat(spans).to(device) % block_size, bias)


def _windows(segments: list[Segment], batch: RowBatch, block_size: int) -> Gathered:
    tables, firsts = batch.window_tables.cpu().long(), batch.window_first.tolist()
    floors, device = batch.window_floor.tolist(), batch.positions.device
    spans, blocks, rows = [], [], []
    for segment in segments:
        context, window = segment.context, segment.window - 1
        low = max(floors[context][window], segment.last - segment.num_rows + 1 - batch.window)
        span = torch.arange(low, segment.last + 1)
        spans.append(span)
        blocks.append(tables[context, window, span // block_size - firsts[context][window]])
        rows.append(torch.arange(segment.first_row, segment.stop_row))
    causal = BlockDiagonalCausalFromBottomRightMask.from_seqlens(
        [segment.num_rows for segment in segments], [len(span) for span in spans], device=device
    )
    bias = BlockDiagonalCausalLocalAttentionFromBottomRightMask(
        causal.q_seqinfo, causal.k_seqinfo, None, _window_size=batch.window + 1
    )
    places = torch.cat(spans).to(device) % block_size
    return Gathered(torch.cat(rows).to(device), torch.cat(blocks).to(device), places, bias)


def _paged(segments: list[Segment], batch: RowBatch, cache: LayerCache) -> Paged:
    kv_heads = torch.arange(cache.num_kv_heads)
    tables = batch.context_tables.cpu()[[segment.context for segment in segments]]
    pages = tables[:, None, :] * cache.num_kv_heads + kv_heads[None, :, None]
    per_head = [segment for segment in segments for _ in kv_heads]
    device = batch.positions.device
    bias = PagedBlockDiagonalCausalWithOffsetPaddedKeysMask.from_seqlens(
        q_seqlen=[segment.num_rows for segment in per_head],
        kv_seqlen=[segment.last + 1 for segment in per_head],
        block_tables=pages.flatten(0, 1).int().to(device),
        page_size=cache.block_size,
        device=device,
    )
    order = [
        torch.arange(segment.first_row, segment.stop_row) * cache.num_kv_heads + head
        for segment in segments
        for head in range(cache.num_kv_heads)
    ]
    return Paged(torch.cat(order).to(device), bias)


def _flash3_reads_pages() -> bool:
    operator = fmha.flash3.FwOp
    masks = tuple(operator.SUPPORTED_ATTN_BIAS_TYPES)
    return bool(operator.is_available()) and PagedBlockDiagonalCausalWithOffsetPaddedKeysMask in masks

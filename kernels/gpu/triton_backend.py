"""The GPU backend: Triton kernels for everything that is not a product with weights.

Every launch goes through `launch`, so that tools can see exactly what would be launched (`tools/compile_kernels`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton

from kernels.gpu import launch as sizes
from kernels.gpu.gates import hidden_gates, query_gates
from kernels.gpu.keep_hidden import keep_hidden
from kernels.gpu.loop_input import loop_input
from kernels.gpu.rms_norm import rms_norm
from kernels.gpu.rotate_and_write import rotate_and_write
from kernels.gpu.silu_mul import silu_mul
from kernels.gpu.split_attention import merge_parts, partial_attention
from kernels.gpu.tile_attention import tile_attention
from kernels.interface import HiddenGate, LayerCache, QueryGate, RopeTable, RowBatch, Tiling
from kernels.reference import read_blocks

Launch = Callable[..., None]
"""``launch(kernel, grid, *arguments, num_warps=…, num_stages=…, **constexprs)``."""


def launch_kernel(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a kernel on the current stream."""
    kernel[grid](*arguments, **options)


class TritonBackend:
    """Any GPU that Triton compiles for; on a CPU in Triton's interpreter.

    All tensors must be contiguous and on one device.
    """

    def __init__(self, launch: Launch = launch_kernel) -> None:
        self.launch = launch
        self.unit_scales: dict[tuple[torch.device, int], torch.Tensor] = {}

    def warm_up(self, cache_dtype: torch.dtype) -> None:
        """Kernels are compiled for the model's shapes by its first pass."""

    def tiling(self, head_dim: int, group: int, decode_rows: int, dtype: torch.dtype) -> Tiling:
        lanes = sizes.prefill_launch(head_dim, dtype.itemsize, group).lanes
        always = sizes.always_splits(head_dim, group * decode_rows)
        return Tiling(lanes // group, sizes.SPLIT_KEYS, always)

    def loop_input(
        self,
        embedding: torch.Tensor,
        carries: torch.Tensor,
        batch: RowBatch,
        emb_scale: float,
        hidden_scale: float,
    ) -> torch.Tensor:
        rows, hidden = len(batch.token_ids), embedding.shape[1]
        out = embedding.new_empty(rows, hidden)
        self.launch(
            loop_input,
            (rows, triton.cdiv(hidden, sizes.ROW_BLOCK)),
            embedding,
            carries,
            batch.token_ids,
            batch.loops,
            batch.input_slots,
            out,
            emb_scale,
            hidden_scale,
            HIDDEN=hidden,
            BLOCK=sizes.ROW_BLOCK,
            num_warps=4,
        )
        return out

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return self._norm(x, x, weight, eps, add=False)

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return x, self._norm(x, delta, weight, eps, add=True)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self.launch(
            silu_mul,
            (rows, triton.cdiv(width, sizes.ROW_BLOCK)),
            gate_up,
            out,
            WIDTH=width,
            BLOCK=sizes.ROW_BLOCK,
            num_warps=4,
        )
        return out

    def gates(
        self, gate: HiddenGate | QueryGate, x: torch.Tensor, queries: torch.Tensor, eps: float
    ) -> torch.Tensor:
        rows, heads, head_dim = queries.shape
        out = torch.empty(rows, heads, dtype=torch.float32, device=queries.device)
        if isinstance(gate, HiddenGate):
            self.launch(
                hidden_gates,
                (triton.cdiv(rows, sizes.GATE_ROWS), triton.cdiv(heads, sizes.GATE_HEADS)),
                x,
                gate.norm,
                gate.weight,
                gate.bias,
                out,
                rows,
                eps,
                HIDDEN=x.shape[1],
                HEADS=heads,
                ROWS=sizes.GATE_ROWS,
                BLOCK_HEADS=sizes.GATE_HEADS,
                CHUNK=sizes.GATE_CHUNK,
                num_warps=4,
            )
            return out
        self.launch(
            query_gates,
            (rows,),
            queries,
            gate.weight,
            gate.bias,
            out,
            HEADS=heads,
            HEAD_DIM=head_dim,
            PADDED_HEADS=triton.next_power_of_2(heads),
            PADDED_DIM=triton.next_power_of_2(head_dim),
            num_warps=4,
        )
        return out

    def rotate_and_write(
        self, qkv: torch.Tensor, rope: RopeTable, cache: LayerCache, batch: RowBatch
    ) -> torch.Tensor:
        rows, head_dim, kv_heads = len(qkv), cache.head_dim, cache.num_kv_heads
        heads = qkv.shape[1] // head_dim - 2 * kv_heads
        queries = qkv.new_empty(rows, heads, head_dim)
        key_scales, value_scales = self._scales(cache)
        self.launch(
            rotate_and_write,
            (rows, triton.cdiv(heads + 2 * kv_heads, sizes.ROPE_HEADS)),
            qkv,
            rope.cos,
            rope.sin,
            batch.positions,
            batch.cache_slots,
            cache.keys,
            cache.values,
            key_scales,
            value_scales,
            queries,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HALF_DIM=head_dim // 2,
            PADDED_HALF=triton.next_power_of_2(head_dim // 2),
            BLOCK_SIZE=cache.block_size,
            BLOCK_HEADS=sizes.ROPE_HEADS,
            num_warps=4,
        )
        return queries

    def attend(
        self, cache: LayerCache, queries: torch.Tensor, gates: torch.Tensor | None, batch: RowBatch
    ) -> torch.Tensor:
        out = torch.empty_like(queries)
        gates = out if gates is None else gates
        group = queries.shape[1] // cache.num_kv_heads
        element_bytes = queries.element_size()
        if batch.num_decode_tiles:
            launch = sizes.decode_launch(cache.head_dim, element_bytes, group * batch.decode_rows)
            if len(batch.parts):
                self._attend_split(cache, queries, gates, batch, out, launch)
            else:
                self._attend_tiles(cache, queries, gates, batch, out, launch, 0, batch.num_decode_tiles)
        num_prefill_tiles = len(batch.tiles) - batch.num_decode_tiles
        if num_prefill_tiles:
            launch = sizes.prefill_launch(cache.head_dim, element_bytes, group)
            first = batch.num_decode_tiles
            self._attend_tiles(cache, queries, gates, batch, out, launch, first, num_prefill_tiles)
        return out.flatten(1)

    def read_keys(self, cache: LayerCache, blocks: Sequence[int]) -> torch.Tensor:
        return read_blocks(cache.keys, cache.key_scales, torch.tensor(blocks, device=cache.keys.device))

    def keep_hidden(
        self, hidden: torch.Tensor, carries: torch.Tensor, block_hidden: torch.Tensor, batch: RowBatch
    ) -> None:
        rows, width = hidden.shape
        self.launch(
            keep_hidden,
            (rows, triton.cdiv(width, sizes.ROW_BLOCK)),
            hidden,
            carries,
            block_hidden,
            batch.output_slots,
            batch.snapshot_blocks,
            HIDDEN=width,
            BLOCK=sizes.ROW_BLOCK,
            num_warps=4,
        )

    def _norm(
        self, x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, add: bool
    ) -> torch.Tensor:
        rows, hidden = x.shape
        out = torch.empty_like(x)
        block = triton.next_power_of_2(hidden)
        self.launch(
            rms_norm,
            (rows,),
            x,
            delta,
            weight,
            x,
            out,
            eps,
            HIDDEN=hidden,
            BLOCK=block,
            ADD=add,
            num_warps=min(16, max(4, block // 512)),
        )
        return out

    def _attend_tiles(
        self,
        cache: LayerCache,
        queries: torch.Tensor,
        gates: torch.Tensor,
        batch: RowBatch,
        out: torch.Tensor,
        launch: sizes.AttentionLaunch,
        first_tile: int,
        num_tiles: int,
    ) -> None:
        key_scales, value_scales = self._scales(cache)
        self.launch(
            tile_attention,
            (num_tiles, cache.num_kv_heads),
            queries,
            gates,
            cache.keys,
            cache.values,
            key_scales,
            value_scales,
            batch.tiles,
            batch.positions,
            batch.windows,
            batch.context_tables,
            batch.window_tables,
            batch.window_first,
            batch.window_floor,
            out,
            first_tile,
            batch.context_tables.shape[-1],
            batch.window_tables.shape[-1],
            _score_scale(cache),
            WINDOW=batch.window,
            KEYS=launch.keys,
            **_shape(cache, queries, batch, launch),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )

    def _attend_split(
        self,
        cache: LayerCache,
        queries: torch.Tensor,
        gates: torch.Tensor,
        batch: RowBatch,
        out: torch.Tensor,
        launch: sizes.AttentionLaunch,
    ) -> None:
        key_scales, value_scales = self._scales(cache)
        shape = _shape(cache, queries, batch, launch)
        places = (len(batch.parts), cache.num_kv_heads)
        acc = torch.empty(
            *places, launch.lanes, shape["PADDED_DIM"], dtype=torch.float32, device=queries.device
        )
        state = torch.empty(*places, 2, launch.lanes, dtype=torch.float32, device=queries.device)
        self.launch(
            partial_attention,
            places,
            queries,
            cache.keys,
            cache.values,
            key_scales,
            batch.tiles,
            batch.parts,
            batch.positions,
            batch.windows,
            batch.context_tables,
            batch.window_tables,
            batch.window_first,
            batch.window_floor,
            acc,
            state,
            batch.context_tables.shape[-1],
            batch.window_tables.shape[-1],
            _score_scale(cache),
            WINDOW=batch.window,
            SPLIT_KEYS=sizes.SPLIT_KEYS,
            KEYS=launch.keys,
            **shape,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        del shape["BLOCK_SIZE"]
        self.launch(
            merge_parts,
            (batch.num_decode_tiles, cache.num_kv_heads),
            acc,
            state,
            gates,
            cache.values,
            value_scales,
            batch.tiles,
            batch.part_starts,
            batch.positions,
            batch.windows,
            out,
            SPLIT_KEYS=sizes.SPLIT_KEYS,
            **shape,
            num_warps=launch.num_warps,
        )

    def _scales(self, cache: LayerCache) -> tuple[torch.Tensor, torch.Tensor]:
        if cache.key_scales is not None and cache.value_scales is not None:
            return cache.key_scales, cache.value_scales
        key = cache.keys.device, cache.num_kv_heads
        if key not in self.unit_scales:
            self.unit_scales[key] = torch.ones(cache.num_kv_heads, device=cache.keys.device)
        return self.unit_scales[key], self.unit_scales[key]


def _score_scale(cache: LayerCache) -> float:
    return math.log2(math.e) / math.sqrt(cache.head_dim)


def _shape(
    cache: LayerCache, queries: torch.Tensor, batch: RowBatch, launch: sizes.AttentionLaunch
) -> dict[str, int]:
    """Constants that all attention kernels take."""
    return {
        "NUM_WINDOWS": batch.num_windows,
        "HEADS": queries.shape[1],
        "KV_HEADS": cache.num_kv_heads,
        "HEAD_DIM": cache.head_dim,
        "PADDED_DIM": triton.next_power_of_2(max(cache.head_dim, 16)),
        "BLOCK_SIZE": cache.block_size,
        "LANES": launch.lanes,
    }

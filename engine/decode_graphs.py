"""Decode steps as CUDA graphs: one launch in place of some ten per layer.

A graph replays the same kernels on the same addresses. So decode batches are padded to a few fixed shapes, and every
shape reads its inputs from one static buffer. Rows that pad write nowhere and are read by nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.staging import TENSORS, Staging, packed_size, unpacked
from kernels.interface import RowBatch, Tiling

Work = Callable[[], torch.Tensor]
Capture = Callable[[Work], tuple[Callable[[], None], torch.Tensor]]
"""Records a piece of work that reads and writes fixed addresses; returns its replay and the tensor it fills."""

MAX_PARTS = 4096
"""Parts of a split decode beyond which a step runs without a graph: there attention takes so long that launches don't
count, and the buffer of partial results (128 KiB a part for 8 KV heads of 128) would be large."""

_CONTEXT_GROWTH = 4
"""Ratio of neighbouring context sizes: padding a table costs a few bytes, padding parts empty programs."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What decode batches of one engine look like at most.

    Attributes:
        num_windows: of a context, see `RowBatch`.
        rows_per_tile: sizes that a decode tile's rows are padded to, ascending: R where a pass has all loops of a token
            and they share a context, 1 where it has one of them, or both if both executions are to be compared.
        max_tiles: most decode tiles of a pass.
        window_blocks: entries of a window's block table.
        tiling: of the kernel backend.
    """

    num_windows: int
    rows_per_tile: tuple[int, ...]
    max_tiles: int
    max_model_len: int
    block_size: int
    window: int
    tiling: Tiling

    @property
    def window_blocks(self) -> int:
        """W + 1 positions can begin anywhere in a block."""
        return -(-self.window // self.block_size) + 1

    def tile_counts(self) -> list[int]:
        """Sizes that batches are padded to: 1, 2, 4, then multiples of 8."""
        return [n for n in (1, 2, 4) if n < self.max_tiles] + [*range(8, self.max_tiles, 8), self.max_tiles]

    def contexts(self) -> list[int]:
        """Context lengths that block tables are padded to: one part of a split decode, and multiples of it."""
        context, found = self.tiling.split_keys or 512, []
        while context < self.max_model_len:
            found.append(context)
            context *= _CONTEXT_GROWTH
        return [*found, self.max_model_len]


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """A shape that has a graph: so many decode tiles with at most so much context and so many rows each."""

    tiles: int
    context: int
    rows: int


class DecodeGraphs:
    """All graphs of one engine and the buffer that they read.

    Attributes:
        shapes: ascending in tiles, then in context, then in rows.

    Args:
        run_layers: computes a batch on the device; returns ``[rows, hidden]``.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        staging: Staging,
        run_layers: Callable[[RowBatch], torch.Tensor],
        capture: Capture,
    ) -> None:
        self.limits = limits
        self.staging = staging
        self.shapes = [
            shape
            for tiles in limits.tile_counts()
            for context in limits.contexts()
            for rows in limits.rows_per_tile
            if self._num_parts(shape := DecodeShape(tiles, context, rows)) <= MAX_PARTS
        ]
        largest = max(packed_size(self._empty(shape)) for shape in self.shapes)
        self.buffer = torch.zeros(largest, dtype=torch.int32, device=staging.device)
        self.graphs: dict[DecodeShape, tuple[Callable[[], None], torch.Tensor]] = {}
        # Largest first, so that the smaller graphs find their memory in the pool of the larger ones.
        for shape in reversed(self.shapes):
            empty = self._empty(shape)
            staging.upload(empty, self.buffer)
            static = unpacked(empty, self.buffer)
            self.graphs[shape] = capture(lambda static=static: run_layers(static))  # type: ignore[misc]

    def run(self, batch: RowBatch) -> torch.Tensor | None:
        """Replay the graph that fits a batch on the host; None if none does.

        Returns:
            The batch's logit rows, ``[wanted, hidden]``.
        """
        shape = self._shape_for(batch)
        if shape is None:
            return None
        static = self.staging.upload(padded(batch, self._empty(shape)), self.buffer)
        replay, output = self.graphs[shape]
        replay()
        return output[static.logit_rows[: len(batch.logit_rows)]]

    def _shape_for(self, batch: RowBatch) -> DecodeShape | None:
        tiles = len(batch.tiles)
        if batch.num_decode_tiles < tiles or batch.window_tables.shape[-1] > self.limits.window_blocks:
            return None
        context = int(batch.positions.max()) + 1
        rows = int((batch.tiles[:, 2] - batch.tiles[:, 1]).max())
        fitting = (
            shape
            for shape in self.shapes
            if shape.tiles >= tiles and shape.context >= context and shape.rows >= rows
        )
        return next(fitting, None)

    def _num_parts(self, shape: DecodeShape) -> int:
        tiling = self.limits.tiling
        split = tiling.split_keys
        if split is None or (shape.context <= split and not tiling.always_splits):
            return 0
        return shape.tiles * (1 + -(-shape.context // split))

    def _empty(self, shape: DecodeShape) -> RowBatch:
        """A batch of padding only."""
        limits, tiles, windows = self.limits, shape.tiles, self.limits.num_windows
        rows, parts = tiles * shape.rows, self._num_parts(shape)

        def zeros(*sizes: int) -> torch.Tensor:
            return torch.zeros(sizes, dtype=torch.int32)

        return RowBatch(
            token_ids=zeros(rows),
            positions=zeros(rows),
            loops=zeros(rows),
            windows=zeros(rows),
            input_slots=zeros(rows),
            output_slots=zeros(rows) - 1,
            snapshot_blocks=zeros(rows) - 1,
            cache_slots=zeros(rows) - 1,
            tiles=zeros(tiles, 3),
            parts=zeros(parts, 2) - 1,
            part_starts=zeros(tiles if parts else 0),
            context_tables=zeros(tiles, -(-shape.context // limits.block_size)),
            window_tables=zeros(tiles, windows, limits.window_blocks),
            window_first=zeros(tiles, windows),
            window_floor=zeros(tiles, windows),
            logit_rows=zeros(rows),  # a sequence may want those of all its loops
            window=limits.window,
            num_decode_tiles=tiles,
        )


def padded(batch: RowBatch, empty: RowBatch) -> RowBatch:
    """`batch` in the shape of `empty`, with `empty`'s values where it has none."""
    if len(empty.parts) and not len(batch.parts):
        batch = _in_one_part(batch)

    def fill(name: str) -> torch.Tensor:
        out, values = getattr(empty, name), getattr(batch, name)
        out[tuple(slice(size) for size in values.shape)] = values
        return out

    filled: dict[str, Any] = {name: fill(name) for name in TENSORS if getattr(empty, name).numel()}
    return replace(empty, **filled)


def _in_one_part(batch: RowBatch) -> RowBatch:
    """The batch with each tile split into its windows and one part."""
    tiles = torch.arange(len(batch.tiles), dtype=torch.int32)
    parts = torch.stack(
        [tiles.repeat_interleave(2), torch.tensor([0, 1], dtype=torch.int32).repeat(len(tiles))]
    )
    return replace(batch, parts=parts.T.contiguous(), part_starts=2 * tiles)


class CudaGraphCapture:
    """Captures work as CUDA graphs that share one memory pool. Never run yet: there was no GPU to run it on."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> tuple[Callable[[], None], torch.Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()  # compiles kernels and lets libraries allocate what they may not while capturing
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            output = work()
        return graph.replay, output

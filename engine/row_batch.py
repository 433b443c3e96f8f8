"""A step plan as tensors."""

from dataclasses import dataclass

import numpy as np
import torch

from kernels.interface import RowBatch, Tiling
from scheduler.carry_pool import NO_SLOT
from scheduler.loop_layout import LoopLayout
from scheduler.sequence import BlockTable, Sequence
from scheduler.step_plan import RowSegment, StepPlan


@dataclass(frozen=True, slots=True)
class LogitRow:
    """A row whose logits are wanted: those that `loop` gives after `position` of `sequence`."""

    row: int
    sequence: Sequence
    loop: int
    position: int

    @property
    def is_last_loop(self) -> bool:
        return self.loop == self.sequence.layout.num_loops - 1


@dataclass(frozen=True, slots=True)
class BatchFormat:
    """What the model and its kernel backend want of a batch.

    Attributes:
        window: W of `RowBatch`.
        tiling: of the kernel backend.
        keeps_snapshots: there is a prefix cache that restores H vectors.
    """

    window: int
    tiling: Tiling
    keeps_snapshots: bool


@dataclass(frozen=True, slots=True)
class ContextRows:
    """The rows that read one context: `segments[0]`'s first row is row `first_row` of the pass.

    All rows of a sequence where later loops have windows, beside which they read loop 0's keys; else those of one loop.
    """

    sequence: Sequence
    segments: list[RowSegment]
    first_row: int

    @property
    def table(self) -> BlockTable:
        layout = self.sequence.layout
        return self.sequence.tables[0 if layout.has_windows else self.segments[0].loop]

    @property
    def num_rows(self) -> int:
        return sum(segment.num_rows for segment in self.segments)

    @property
    def is_decode(self) -> bool:
        """At most one row per loop, as in decode."""
        return self.num_rows == len(self.segments)


def build_row_batch(
    step: StepPlan, layout: LoopLayout, wanted: BatchFormat
) -> tuple[RowBatch, list[LogitRow]]:
    """Flatten a non-empty step plan, on the host; row order is segment order.

    Args:
        layout: the model's; a sequence may have fewer loops.
    """
    segments = step.segments
    contexts = _contexts(segments)
    positions = np.concatenate([np.arange(segment.start, segment.stop) for segment in segments])
    row_counts = [segment.num_rows for segment in segments]
    loops = np.repeat([segment.loop for segment in segments], row_counts)
    passes_on = np.repeat([s.loop < s.sequence.layout.num_loops - 1 for s in segments], row_counts)
    slots = np.concatenate([_cache_slots(segment, layout.block_size) for segment in segments])
    at_block_end = (positions + 1) % layout.block_size == 0
    snapshots = at_block_end & (slots >= 0) & passes_on & wanted.keeps_snapshots
    tiles, num_decode_tiles = _tiles(contexts, wanted.tiling.tile_rows)
    parts, part_starts = _parts(tiles[:num_decode_tiles], positions, wanted.tiling)
    logit_rows = [row for rows in contexts for row in _logit_rows(rows)]
    windowed = range(1, layout.num_loops) if layout.has_windows else range(0)
    windows = [_window(c.sequence, loop) for c in contexts for loop in windowed]
    batch = RowBatch(
        token_ids=_tensor([token for s in segments for token in s.sequence.tokens[s.start : s.stop]]),
        positions=_tensor(positions),
        loops=_tensor(loops),
        windows=_tensor(loops if windowed else np.zeros_like(loops)),
        input_slots=_tensor(
            np.concatenate([s.input_slots or np.zeros(s.num_rows, np.int32) for s in segments])
        ),
        output_slots=_tensor(
            np.concatenate([s.output_slots or np.full(s.num_rows, NO_SLOT) for s in segments])
        ),
        snapshot_blocks=_tensor(np.where(snapshots, slots // layout.block_size, -1)),
        cache_slots=_tensor(slots),
        tiles=_tensor(tiles),
        parts=_tensor(parts),
        part_starts=_tensor(part_starts),
        context_tables=_tensor(_padded([c.table for c in contexts])),
        window_tables=_tensor(_padded(windows).reshape(len(contexts), len(windowed), -1))
        if windowed
        else torch.zeros(len(contexts), 0, 1, dtype=torch.int32),
        window_first=_tensor([table.first for table in windows]).view(len(contexts), len(windowed)),
        window_floor=_tensor([[_floor(c.sequence, loop) for loop in windowed] for c in contexts]),
        logit_rows=_tensor([row.row for row in logit_rows]),
        window=wanted.window,
        num_decode_tiles=num_decode_tiles,
    )
    return batch, logit_rows


def _tensor(values: np.ndarray | list[int] | list[list[int]]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int32))


def _contexts(segments: list[RowSegment]) -> list[ContextRows]:
    """In the order of their rows."""
    found: list[ContextRows] = []
    row = 0
    for segment in segments:
        sequence = segment.sequence
        if not found or found[-1].sequence is not sequence or not sequence.layout.has_windows:
            found.append(ContextRows(sequence, [], row))
        found[-1].segments.append(segment)
        row += segment.num_rows
    return found


def _cache_slots(segment: RowSegment, block_size: int) -> np.ndarray:
    """Slot of each row's k, v; -1 where a cached block of loop 0 holds them already."""
    table = segment.sequence.tables[segment.loop]
    positions = np.arange(segment.start, segment.stop)
    blocks = np.asarray(table.blocks, dtype=np.int64)[positions // block_size - table.first]
    slots = blocks * block_size + positions % block_size
    if segment.loop == 0:
        assert segment.sequence.plan is not None
        slots[positions < segment.sequence.plan.shared_hit] = -1
    return slots


def _tiles(contexts: list[ContextRows], tile_rows: int) -> tuple[np.ndarray, int]:
    """int32 ``[tiles, 3]`` of `RowBatch.tiles`, and how many are decode tiles."""
    decode, prefill = [], []
    for index, rows in enumerate(contexts):
        if rows.is_decode:
            decode.append((index, rows.first_row, rows.first_row + rows.num_rows))
            continue
        first = rows.first_row
        for segment in rows.segments:
            stop = first + segment.num_rows
            prefill += [(index, row, min(row + tile_rows, stop)) for row in range(first, stop, tile_rows)]
            first = stop
    return np.array(decode + prefill, dtype=np.int32), len(decode)


def _parts(decode_tiles: np.ndarray, positions: np.ndarray, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """`RowBatch.parts` and `RowBatch.part_starts`."""
    nothing = np.zeros((0, 2), np.int32), np.zeros(0, np.int32)
    split_keys = tiling.split_keys
    if split_keys is None or len(decode_tiles) == 0:
        return nothing
    contexts = np.array([positions[first:stop].max() + 1 for _, first, stop in decode_tiles])
    if contexts.max() <= split_keys and not tiling.always_splits:
        return nothing
    counts = 1 + -(-contexts // split_keys)
    starts = np.cumsum(counts) - counts
    tiles = np.repeat(np.arange(len(counts)), counts)
    return np.stack([tiles, np.arange(len(tiles)) - starts[tiles]], axis=1), starts


def _logit_rows(rows: ContextRows) -> list[LogitRow]:
    """The last loop's row of the newest position, and of every prompt position if prompt logprobs are owed.

    Of the earlier loops the newest position's, if the request wants to know what each loop would have said.
    """
    sequence, first, wanted = rows.sequence, rows.first_row, []
    newest, last_loop = len(sequence) - 1, sequence.layout.num_loops - 1
    for segment in rows.segments:
        positions = [newest] if segment.stop > newest else []
        if segment.loop < last_loop:
            positions = positions if sequence.every_loop else []
        elif sequence.every_position:
            positions = [*range(segment.start, min(segment.stop, sequence.num_prompt_tokens - 1)), *positions]
        wanted += [LogitRow(first + p - segment.start, sequence, segment.loop, p) for p in positions]
        first += segment.num_rows
    return wanted


def _window(sequence: Sequence, loop: int) -> BlockTable:
    """Table of a later loop's window, an empty one for a loop that the sequence does not have."""
    return sequence.tables[loop] if loop < sequence.layout.num_loops else BlockTable()


def _floor(sequence: Sequence, loop: int) -> int:
    assert sequence.plan is not None
    return sequence.plan.window_floor(loop) if loop < sequence.layout.num_loops else 0


def _padded(tables: list[BlockTable]) -> np.ndarray:
    """int32 ``[tables, longest]``; the padding is never read."""
    out = np.zeros((len(tables), max(1, max((len(table.blocks) for table in tables), default=1))), np.int32)
    for row, table in enumerate(tables):
        out[row, : len(table.blocks)] = table.blocks
    return out

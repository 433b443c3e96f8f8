"""A step plan as tensors."""

from dataclasses import dataclass

import numpy as np
import torch

from kernels.interface import AttentionBatch
from scheduler.carry_pool import NO_SLOT
from scheduler.loop_layout import LoopLayout
from scheduler.sequence import BlockTable, Sequence
from scheduler.step_plan import RowSegment, StepPlan


@dataclass(frozen=True, slots=True)
class LogitRow:
    """A row whose logits are wanted: those after `position` of `sequence`."""

    row: int
    sequence: Sequence
    position: int


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Tensors of one pass; every index is int64 on the host.

    Attributes:
        token_ids, positions: ``[rows]``.
        later_rows, later_slots: rows of loop ≥ 1 and the carry slots they read.
        output_rows, output_slots: rows whose H goes to a carry slot.
        snapshot_rows, snapshot_blocks: rows whose H is kept beside the block that they complete.
        logit_rows: rows whose logits are wanted.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    later_rows: torch.Tensor
    later_slots: torch.Tensor
    output_rows: torch.Tensor
    output_slots: torch.Tensor
    snapshot_rows: torch.Tensor
    snapshot_blocks: torch.Tensor
    logit_rows: list[LogitRow]
    attention: AttentionBatch


def build_row_batch(step: StepPlan, layout: LoopLayout, window: int) -> RowBatch:
    """Flatten a non-empty step plan; row order is segment order."""
    segments = step.segments
    first_rows = np.cumsum([0] + [segment.num_rows for segment in segments])
    positions = np.concatenate([np.arange(segment.start, segment.stop) for segment in segments])
    slots = np.concatenate([_cache_slots(segment, layout.block_size) for segment in segments])
    later = [np.arange(0)] + [
        first_rows[i] + np.arange(s.num_rows) for i, s in enumerate(segments) if s.loop > 0
    ]
    outputs = np.full(len(positions), NO_SLOT, dtype=np.int64)
    for start, segment in zip(first_rows, segments, strict=False):
        if segment.output_slots:
            outputs[start : start + segment.num_rows] = segment.output_slots
    loops = np.repeat([segment.loop for segment in segments], [segment.num_rows for segment in segments])
    at_block_end = (positions + 1) % layout.block_size == 0
    snapshots = np.flatnonzero(at_block_end & (slots >= 0) & (loops < layout.num_loops - 1))
    return RowBatch(
        token_ids=_tensor([token for s in segments for token in s.sequence.tokens[s.start : s.stop]]),
        positions=_tensor(positions),
        later_rows=_tensor(np.concatenate(later)),
        later_slots=_tensor([slot for segment in segments for slot in segment.input_slots]),
        output_rows=_tensor(np.flatnonzero(outputs != NO_SLOT)),
        output_slots=_tensor(outputs[outputs != NO_SLOT]),
        snapshot_rows=_tensor(snapshots),
        snapshot_blocks=_tensor(slots[snapshots] // layout.block_size),
        logit_rows=_logit_rows(segments, first_rows, layout.num_loops - 1),
        attention=_attention_batch(segments, positions, slots, loops, layout, window),
    )


def _tensor(values: np.ndarray | list[int]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))


def _int32(values: np.ndarray | list[int] | list[list[int]]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int32))


def _cache_slots(segment: RowSegment, block_size: int) -> np.ndarray:
    """Slot of each row's k, v; -1 where a cached shared block holds them already."""
    table = segment.sequence.tables[segment.loop]
    positions = np.arange(segment.start, segment.stop)
    blocks = np.asarray(table.blocks, dtype=np.int64)[positions // block_size - table.first]
    slots = blocks * block_size + positions % block_size
    if segment.loop == 0:
        assert segment.sequence.plan is not None
        slots[positions < segment.sequence.plan.shared_hit] = -1
    return slots


def _logit_rows(segments: list[RowSegment], first_rows: np.ndarray, last_loop: int) -> list[LogitRow]:
    """The newest position of each sequence, and every prompt position if prompt logprobs are owed."""
    rows = []
    for start, segment in zip(first_rows, segments, strict=False):
        if segment.loop != last_loop:
            continue
        sequence = segment.sequence
        for position in range(segment.start, segment.stop):
            newest = position == len(sequence) - 1
            if newest or (sequence.every_position and position < sequence.num_prompt_tokens - 1):
                rows.append(LogitRow(int(start) + position - segment.start, sequence, position))
    return rows


def _attention_batch(
    segments: list[RowSegment],
    positions: np.ndarray,
    slots: np.ndarray,
    loops: np.ndarray,
    layout: LoopLayout,
    window: int,
) -> AttentionBatch:
    sequences = list({segment.sequence: None for segment in segments})
    index = {sequence: number for number, sequence in enumerate(sequences)}
    rows_per_sequence = np.zeros(len(sequences), dtype=np.int64)
    for segment in segments:
        rows_per_sequence[index[segment.sequence]] += segment.num_rows
    later_loops = range(1, layout.num_loops)
    return AttentionBatch(
        slots=_tensor(slots),
        positions=_int32(positions),
        loops=_int32(loops),
        row_starts=_int32(np.cumsum([0, *rows_per_sequence])),
        shared_tables=_padded([sequence.tables[0] for sequence in sequences]),
        window_tables=_padded([s.tables[loop] for s in sequences for loop in later_loops]).reshape(
            len(sequences), len(later_loops), -1
        )
        if later_loops
        else torch.zeros(len(sequences), 0, 1, dtype=torch.int32),
        window_first=_int32([[s.tables[loop].first for loop in later_loops] for s in sequences]),
        window_floor=_int32([[_floor(s, loop) for loop in later_loops] for s in sequences]),
        window=window,
    )


def _floor(sequence: Sequence, loop: int) -> int:
    assert sequence.plan is not None
    return sequence.plan.window_floor(loop)


def _padded(tables: list[BlockTable]) -> torch.Tensor:
    """int32 ``[tables, longest]``; the padding is never read."""
    out = np.zeros((len(tables), max(1, max(len(table.blocks) for table in tables))), dtype=np.int32)
    for row, table in enumerate(tables):
        out[row, : len(table.blocks)] = table.blocks
    return torch.from_numpy(out)

"""Bugs as they could have been written, put in by monkeypatching: comparing bits must notice every one, without a look
at the scheduler's books.

They depend on the crowd. What is wrong alone as well is for the comparison with the oracle, `tests/engine`.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import engine.core as core_module
import engine.row_batch as row_batch_module
import engine.sampler as sampler_module
from engine.runner import ModelRunner
from engine.sampler import SamplingState
from engine.tap import Tap
from kernels.panel_linear import PanelLinear
from scheduler.carry_pool import CarryPool
from scheduler.sequence import Sequence
from scheduler.sequence_cache import SequenceCache
from scheduler.step_plan import CarryRestore
from tests.tools.simulation.mutations import (
    blocks_are_registered_before_they_are_full,
    carry_is_not_restored,
    carry_slots_come_back_early,
    eviction_keeps_the_key,
    inexact_blocks_are_cached,
    keys_leave_the_parent_out,
    padding_is_read,
    tail_starts_one_late,
    window_is_trimmed_one_early,
)

Patch = pytest.MonkeyPatch
Mutation = Callable[[Patch], None]


def shared_blocks_are_released_too_early(patch: Patch) -> None:
    """A context's blocks may be evicted as soon as they are in the prefix cache, while it still runs."""
    advance, release = SequenceCache.advance, SequenceCache.release
    gone: dict[Sequence, list[int]] = {}

    def early(self: SequenceCache, sequence: Sequence) -> None:
        advance(self, sequence)
        released = gone.setdefault(sequence, [])
        for block in sequence.tables[0].blocks:
            if block not in released and self.blocks.keys[block] is not None and self.blocks.refs[block] == 1:
                released.append(block)
                self.blocks.release(block)

    def later(self: SequenceCache, sequence: Sequence) -> None:
        for block in gone.pop(sequence, ()):
            sequence.tables[0].blocks.remove(block)
        release(self, sequence)

    patch.setattr(SequenceCache, "advance", early)
    patch.setattr(SequenceCache, "release", later)


def another_snapshot_is_restored(patch: Patch) -> None:
    """That of the first block of the context instead of the last one's."""
    begin = SequenceCache._begin_carries

    def broken(self: SequenceCache, sequence: Sequence, plan: object) -> list[CarryRestore]:
        found = begin(self, sequence, plan)  # type: ignore[arg-type]
        return [replace(restore, block=sequence.tables[0].blocks[0]) for restore in found]

    patch.setattr(SequenceCache, "_begin_carries", broken)


def snapshots_are_taken_one_row_late(patch: Patch) -> None:
    """H of a block's last position but one."""
    build = row_batch_module.build_row_batch

    def broken(*args: object) -> object:
        batch, wanted = build(*args)  # type: ignore[arg-type]
        return replace(batch, snapshot_blocks=torch.roll(batch.snapshot_blocks, -1)), wanted

    patch.setattr("engine.runner.build_row_batch", broken)


def restores_come_after_the_pass(patch: Patch) -> None:
    compute = ModelRunner.compute

    def broken(
        self: ModelRunner, batch: object, restores: list[CarryRestore], tap: Tap | None
    ) -> torch.Tensor:
        logits = compute(self, batch, [], tap)  # type: ignore[arg-type]
        for restore in restores:
            self.state.carries[restore.slot] = self.state.block_hidden[restore.block]
        return logits

    patch.setattr(ModelRunner, "compute", broken)


def carry_slots_are_given_out_twice(patch: Patch) -> None:
    allocate = CarryPool.allocate

    def broken(self: CarryPool, count: int) -> list[int]:
        slots = allocate(self, count)
        if count > 1:
            self.free.append(slots.pop())
            slots.append(slots[0])
        return slots

    patch.setattr(CarryPool, "allocate", broken)


def products_depend_on_the_number_of_rows(patch: Patch) -> None:
    """As a library's do: another last bit from four rows on."""
    call = PanelLinear.__call__

    def broken(self: PanelLinear, x: torch.Tensor) -> torch.Tensor:
        out = call(self, x)
        return out if len(x) < 4 else torch.nextafter(out, torch.tensor(torch.inf))

    patch.setattr(PanelLinear, "__call__", broken)


def draws_depend_on_the_step(patch: Patch) -> None:
    """Random numbers are counted by passes of the engine instead of the request's tokens."""
    step, passes = core_module.EngineCore.step, [0]

    def counted(self: core_module.EngineCore) -> object:
        passes[0] += 1
        return step(self)

    uniform = sampler_module.uniform
    patch.setattr(core_module.EngineCore, "step", counted)
    patch.setattr(sampler_module, "uniform", lambda seed, counter: uniform(seed, counter + passes[0]))


def penalties_leak_to_the_neighbour(patch: Patch) -> None:
    """All rows of a step are adjusted with the first one's state."""
    adjust = sampler_module.adjust

    def broken(logits: torch.Tensor, states: list[SamplingState]) -> torch.Tensor:
        return adjust(logits, states[:1] * len(states))

    patch.setattr(sampler_module, "adjust", broken)


MUTATIONS: list[Mutation] = [
    shared_blocks_are_released_too_early,
    window_is_trimmed_one_early,
    carry_slots_come_back_early,
    carry_slots_are_given_out_twice,
    carry_is_not_restored,
    another_snapshot_is_restored,
    snapshots_are_taken_one_row_late,
    restores_come_after_the_pass,
    blocks_are_registered_before_they_are_full,
    eviction_keeps_the_key,
    inexact_blocks_are_cached,
    keys_leave_the_parent_out,
    padding_is_read,
    tail_starts_one_late,
    products_depend_on_the_number_of_rows,
    draws_depend_on_the_step,
    penalties_leak_to_the_neighbour,
]

"""The cache of the model of hashes, and pools that poison in it whatever belongs to nobody."""

from collections import Counter
from typing import Protocol

import numpy as np
import torch

from kernels.interface import RowBatch
from scheduler.block_pool import SINGLE, BlockGroup, BlockPool
from scheduler.carry_pool import CarryPool
from scheduler.loop_layout import LoopLayout
from scheduler.step_plan import CarryRestore
from tools.simulation.arithmetic import POISON
from tools.simulation.failure import require


class Poisonable(Protocol):
    """Memory that a block pool and a carry pool keep the books of."""

    def poison_block(self, block: int) -> None: ...

    def poison_slot(self, slot: int) -> None: ...


class Memory:
    """What outlives a pass, as `engine.model.ModelState` is for the real model.

    Attributes:
        cache: uint64 ``[blocks + 1, block_size, layers]``.
        carries: uint64 ``[slots + 2]``; slot 0 stays zero.
        block_hidden: uint64 ``[blocks + 1]``.
    """

    def __init__(self, layout: LoopLayout, num_blocks: int, num_slots: int) -> None:
        self.cache = np.full((num_blocks + 1, layout.block_size, layout.num_layers), POISON)
        self.carries = np.full(num_slots + 2, POISON)
        self.carries[0] = 0
        self.block_hidden = np.full(num_blocks + 1, POISON)

    def poison_block(self, block: int) -> None:
        self.cache[block] = POISON
        self.block_hidden[block] = POISON

    def ruin(self, batch: RowBatch, restores: list[CarryRestore]) -> None:
        """Poison all that a pass writes, as one that broke off may have left anything there."""
        self.carries[[restore.slot for restore in restores]] = POISON
        size = self.cache.shape[1]
        slots = _used(batch.cache_slots)
        self.cache[slots // size, slots % size] = POISON
        self.carries[_used(batch.output_slots)] = POISON
        self.block_hidden[_used(batch.snapshot_blocks)] = POISON

    def poison_slot(self, slot: int) -> None:
        self.carries[slot] = POISON


class PoisoningBlockPool(BlockPool):
    """Poisons blocks as they become free and as they are handed out, and checks who loses one.

    Attributes:
        idle: whose each evictable block is, in the order in which they were last used.
    """

    def __init__(self, num_blocks: int, memory: Poisonable) -> None:
        super().__init__(num_blocks)
        self.memory = memory
        self.evictions = 0
        self.idle: dict[int, str | None] = {}

    def allocate(self, count: int, group: BlockGroup = SINGLE) -> list[int] | None:
        blocks = super().allocate(count, group)
        for block in blocks or ():
            self.memory.poison_block(block)
        return blocks

    def retain(self, block: int) -> None:
        super().retain(block)
        self.idle.pop(block, None)

    def release(self, block: int) -> None:
        super().release(block)
        if self.refs[block] > 0:
            return
        if self.keys[block] is None:
            self.memory.poison_block(block)
        else:
            self.idle[block] = self.tenants[block]

    def forget_all(self) -> None:
        for block in self.evictable:
            self.memory.poison_block(block)
        super().forget_all()
        self.idle.clear()

    def evict_one(self) -> None:
        """Evict although nobody needs the space."""
        block = self._evict()
        self.free.append(block)
        self.memory.poison_block(block)

    def _evict(self) -> int:
        self.evictions += 1
        counts, block = Counter(self.idle.values()), super()._evict()
        tenant = self.idle[block]
        require(counts[tenant] == max(counts.values()), "a tenant lost a block, and another has more")
        oldest = next(idle for idle, owner in self.idle.items() if owner == tenant)
        require(block == oldest, "a tenant has a block that was not used for longer")
        del self.idle[block]
        return block


class PoisoningCarryPool(CarryPool):
    """Poisons slots as they are given back."""

    def __init__(self, capacity: int, memory: Poisonable) -> None:
        super().__init__(capacity)
        self.memory = memory

    def release(self, slots: list[int]) -> None:
        super().release(slots)
        for slot in slots:
            self.memory.poison_slot(slot)


def _used(indices: torch.Tensor) -> np.ndarray:
    array = indices.numpy()
    return array[array >= 0]

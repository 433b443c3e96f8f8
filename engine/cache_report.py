"""What the cache holds: counts for the metrics after every step, and a map of its blocks when somebody asks."""

import numpy as np

from engine.kv_arithmetic import BlockGroup, group_of
from engine.messages import BlockState, CacheMap, CacheUse
from scheduler.block_pool import CACHED, FREE, HELD, BlockPool
from scheduler.scheduler import Scheduler

MOST_CELLS = 4096
"""Of a map. A pool of more blocks is drawn with several to a cell, so an answer has at most some 8 kB."""


def cache_use(scheduler: Scheduler) -> CacheUse:
    """What running sequences hold. Takes time by their number, not by the length of their contexts."""
    num_loops, pool = scheduler.layout.num_loops, scheduler.blocks
    blocks, sequential = [0] * num_loops, 0
    for group, count in pool.held.items():
        blocks[group.loop] += count
        if group.loop == 0:
            sequential += count * group.num_loops
    slots, tokens = [0] * (num_loops - 1), 0
    for sequence in scheduler.running:
        tokens += len(sequence.tokens)
        for loop, carry in enumerate(sequence.carries):
            slots[loop] += len(carry.slots)
    return CacheUse(blocks=blocks, sequential_blocks=sequential, carry_slots=slots, tokens=tokens)


def blocks_by_group(use: CacheUse, has_windows: bool) -> dict[BlockGroup, int]:
    """Blocks that running sequences hold."""
    counts: dict[BlockGroup, int] = {"shared": 0, "window": 0, "own": 0}
    for loop, count in enumerate(use.blocks):
        counts[group_of(loop, has_windows)] += count
    return counts


def cache_map(pool: BlockPool, num_loops: int) -> CacheMap:
    """The whole pool, in at most `MOST_CELLS` cells."""
    indices = _state_indices(num_loops)[np.frombuffer(pool.states, np.uint8)]
    num_states = 2 * num_loops + 1
    counts = np.bincount(indices, minlength=num_states).tolist()
    blocks_per_cell = max(1, -(-pool.num_blocks // MOST_CELLS))
    return CacheMap(
        blocks_per_cell=blocks_per_cell,
        states=[
            *(BlockState(state="held", loop=loop, blocks=counts[loop]) for loop in range(num_loops)),
            *(
                BlockState(state="cached", loop=loop, blocks=counts[num_loops + loop])
                for loop in range(num_loops)
            ),
            BlockState(state="free", loop=None, blocks=counts[-1]),
        ],
        cells=_most_common(indices, blocks_per_cell, num_states).tobytes(),
    )


def _state_indices(num_loops: int) -> np.ndarray:
    """uint8 ``[256]``: by the pool's code, the place among a map's states: held by loop, cached by loop, free."""
    table = np.zeros(256, np.uint8)
    loops = np.arange(num_loops)
    table[HELD + loops] = loops
    table[CACHED + loops] = num_loops + loops
    table[FREE] = 2 * num_loops
    return table


def _most_common(indices: np.ndarray, per_cell: int, num_states: int) -> np.ndarray:
    """uint8 ``[cells]``: what most blocks of each cell are."""
    if per_cell == 1:
        return indices
    cells = np.arange(len(indices)) // per_cell
    counts = np.bincount(cells * num_states + indices, minlength=(int(cells[-1]) + 1) * num_states)
    return counts.reshape(-1, num_states).argmax(axis=1).astype(np.uint8)

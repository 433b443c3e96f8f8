"""What a looped model's cache costs, in bytes; one place for the log line, the metrics and the pool's size.

LoopCoder-V2 in bfloat16 (14 layers, 8 KV heads of 128, R = 2, W = 64, hidden 5120): 56 KiB per token shared,
112 KiB per token with a cache per loop, 3.55 MiB of windows and 10 KiB of carry per sequence.
"""

from typing import Literal

from engine.config import ModelConfig
from engine.messages import CacheSizes, CacheUse
from scheduler.loop_layout import LoopLayout

BlockGroup = Literal["shared", "window", "own"]
"""What a loop's blocks are: loop 0's context, which all loops read; a later loop's window; a loop's own context."""

FREE_MEMORY_SHARE = {"cpu": 0.3, "cuda": 0.85}
"""Share of the memory left after loading that the block pool takes by default. A GPU is ours alone; what is left there
is for activations."""


def layout_of(config: ModelConfig, block_size: int) -> LoopLayout:
    """The scheduler's view of a model."""
    loops = config.loops
    return LoopLayout(loops.num_loops, loops.offset, loops.window, config.num_layers, block_size, loops.cache)


def group_of(loop: int, has_windows: bool) -> BlockGroup:
    """The group that a loop's blocks belong to."""
    if not has_windows:
        return "own"
    return "window" if loop else "shared"


def one_loop_bytes_per_token(config: ModelConfig, element_bytes: int) -> int:
    """Keys and values of one position of one loop over all layers.

    Args:
        element_bytes: bytes of one cache element (2 for bfloat16, 4 for float32).
    """
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_bytes


def context_bytes_per_token(config: ModelConfig, element_bytes: int) -> int:
    """What a token of context costs: one loop's keys and values where the others share them, else every loop's."""
    per_loop = one_loop_bytes_per_token(config, element_bytes)
    return per_loop if layout_of(config, 1).has_windows else config.loops.num_loops * per_loop


def sequential_bytes_per_token(config: ModelConfig, element_bytes: int) -> int:
    """The same for a cache in which every loop keeps the whole context: R times one loop's."""
    return config.loops.num_loops * one_loop_bytes_per_token(config, element_bytes)


def window_bytes_per_sequence(config: ModelConfig, element_bytes: int) -> int:
    """Keys and values of the W + 1 positions of every window."""
    positions = layout_of(config, 1).num_windows * (config.loops.window + 1)
    return positions * one_loop_bytes_per_token(config, element_bytes)


def carry_bytes_per_sequence(config: ModelConfig, element_bytes: int) -> int:
    """The hidden vectors that every loop but the last hands to the next step, one each."""
    return (config.loops.num_loops - 1) * config.hidden_size * element_bytes


def block_bytes(
    config: ModelConfig, block_size: int, prefix_caching: bool, element_bytes: int, hidden_bytes: int
) -> int:
    """One cache block: K and V of all layers, and the H beside it.

    Args:
        element_bytes: of one cache element.
        hidden_bytes: of one element of H.
    """
    size = block_size * one_loop_bytes_per_token(config, element_bytes)
    if prefix_caching and config.loops.num_loops > 1:
        size += config.hidden_size * hidden_bytes
    return size


def held_bytes(use: CacheUse, sizes: CacheSizes) -> dict[tuple[str, int], int]:
    """What running sequences hold, by (group, loop): blocks by `BlockGroup`, and carries.

    Blocks count with the H beside them.
    """
    block = sizes.kv_block + sizes.block_hidden
    held: dict[tuple[str, int], int] = {}
    for loop, count in enumerate(use.blocks):
        held[group_of(loop, sizes.has_windows), loop] = count * block
    return held | {("carry", loop): count * sizes.carry_slot for loop, count in enumerate(use.carry_slots)}


def baseline_bytes(use: CacheUse, sizes: CacheSizes) -> dict[str, int]:
    """Keys and values of the same contexts in other caches, which keep no H.

    Returns:
        By layout: `sequential`, in which every loop keeps the whole context, and `one_loop`, of a model without loops.
    """
    one_loop = use.blocks[0] * sizes.kv_block if use.blocks else 0
    return {"sequential": use.sequential_blocks * sizes.kv_block, "one_loop": one_loop}


def fitting_sequences(
    sizes: CacheSizes, num_blocks: int, num_loops: int, block_size: int, length: int
) -> dict[str, int]:
    """How many decoding sequences of `length` tokens the bytes of a pool are enough for, if they share nothing.

    Args:
        num_blocks: of the pool, whose bytes each layout gets.

    Returns:
        By layout: `shared` is the pool as it is; the others are those of `baseline_bytes`.
    """
    context = max(1, -(-length // block_size))
    further = (num_loops - 1) * (min(context, sizes.window_blocks) if sizes.has_windows else context)
    pool_bytes = num_blocks * (sizes.kv_block + sizes.block_hidden)
    return {
        "shared": num_blocks // (context + further),
        "sequential": pool_bytes // (num_loops * context * sizes.kv_block),
        "one_loop": pool_bytes // (context * sizes.kv_block),
    }

"""What serving k loops costs, from the model's shape alone."""

from dataclasses import dataclass, replace

from engine.config import ModelConfig
from engine.kv_arithmetic import (
    carry_bytes_per_sequence,
    context_bytes_per_token,
    window_bytes_per_sequence,
)
from scheduler.loop_layout import LoopLayout, plan_recompute

PROMPT_TOKENS = 4096
"""Length of the prompt that prefill is counted for."""


@dataclass(frozen=True, slots=True)
class ServingCost:
    """Of one number of loops.

    Attributes:
        loops: k.
        decode_rows: rows of a decoded token, each a token's work in every layer.
        decode_passes: passes that must follow one another until it is there.
        prompt_rows: rows of a prompt of `PROMPT_TOKENS` of which only the answer is wanted.
        kv_bytes_per_token: of context.
        bytes_per_sequence: windows and carry.
    """

    loops: int
    decode_rows: int
    decode_passes: int
    prompt_rows: int
    kv_bytes_per_token: int
    bytes_per_sequence: int


def serving_costs(
    config: ModelConfig, layout: LoopLayout, cache_bytes: int, hidden_bytes: int
) -> list[ServingCost]:
    """For each number of loops up to the model's.

    Args:
        config: with as many loops as to go up to.
        cache_bytes, hidden_bytes: per element of the cache, and of hidden states.
    """
    return [
        _serving_cost(config, layout, loops, cache_bytes, hidden_bytes)
        for loops in range(1, config.loops.num_loops + 1)
    ]


def _serving_cost(
    config: ModelConfig, layout: LoopLayout, loops: int, cache_bytes: int, hidden_bytes: int
) -> ServingCost:
    with_loops = replace(config, loops=replace(config.loops, num_loops=loops))
    start = plan_recompute(replace(layout, num_loops=loops), PROMPT_TOKENS, 0)
    return ServingCost(
        loops=loops,
        decode_rows=loops,
        # With an offset a loop needs of the loop before only what an earlier pass left.
        decode_passes=1 if config.loops.offset > 0 else loops,
        prompt_rows=start.num_rows,
        kv_bytes_per_token=context_bytes_per_token(with_loops, cache_bytes),
        bytes_per_sequence=window_bytes_per_sequence(with_loops, cache_bytes)
        + carry_bytes_per_sequence(with_loops, hidden_bytes),
    )

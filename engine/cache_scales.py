"""Scales of an e4m3 cache, one per layer and KV head, from a pass over probe tokens.

e4m3 keeps three mantissa bits whatever the scale, so a scale only has to keep values out of the ends of its range, 2⁻⁹
and 448. Keys have outlier channels (KVQuant, arXiv 2401.18079), so the largest value seen is given room to grow.
"""

from dataclasses import replace

import torch

from engine.followers import Followers
from engine.model import LoopedModel, ModelState
from engine.placement import Placement
from engine.runner import ModelRunner, make_state
from kernels import e4m3
from scheduler.loop_layout import LoopLayout
from scheduler.scheduler import Scheduler, SchedulerLimits
from scheduler.sequence import Sequence

PROBE_TOKENS = 64
HEADROOM = 4.0
"""How much larger than the largest probed value a value may be before it is clamped."""


def set_cache_scales(
    model: LoopedModel, state: ModelState, layout: LoopLayout, placement: Placement, max_model_len: int
) -> None:
    """Fill in the scales of an e4m3 cache; ranks of a split model must all call this."""
    for cache, probed in zip(
        state.caches, _probed(model, layout, placement, max_model_len).caches, strict=True
    ):
        for scales, values in ((cache.key_scales, probed.keys), (cache.value_scales, probed.values)):
            assert scales is not None
            largest = values.float().abs().amax(dim=(0, 2, 3))
            scales.copy_(torch.where(largest > 0, largest * HEADROOM / e4m3.LARGEST, 1.0))


def _probed(model: LoopedModel, layout: LoopLayout, placement: Placement, max_model_len: int) -> ModelState:
    """The cache, in the compute dtype, after a prompt of pseudo-random tokens went through all loops."""
    count = min(PROBE_TOKENS, max_model_len - 1)
    rows = max(count, layout.num_loops)
    limits = SchedulerLimits(1, rows, "parallel", False)
    # Windows give their blocks back; with room for all, none is used twice.
    num_blocks = 2 * layout.num_loops * layout.blocks_for(count + 1, rows)
    scheduler = Scheduler(layout, limits, num_blocks)
    plain = replace(placement, cache_dtype=placement.dtype)
    state = make_state(
        model.config, plain, layout.block_size, num_blocks, scheduler.carries.capacity, prefix_caching=False
    )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (count,), generator=generator).tolist()
    sequence = Sequence("probe", tokens, count, layout, every_position=True)
    runner = ModelRunner(model, layout, state, placement.device, Followers())
    scheduler.add(sequence)
    while len(sequence) == count:
        step = scheduler.schedule()
        rows_done = runner.run(step).rows
        is_last = any(row.position == count - 1 for row in rows_done)
        scheduler.commit(step, {sequence: 0} if is_last else {})
    return state

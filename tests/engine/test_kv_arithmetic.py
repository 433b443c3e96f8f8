"""Cache costs against the published figures of LoopCoder-V2 in bfloat16."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import parse_config
from engine.kv_arithmetic import (
    baseline_bytes,
    carry_bytes_per_sequence,
    fitting_sequences,
    held_bytes,
    one_loop_bytes_per_token,
    sequential_bytes_per_token,
    window_bytes_per_sequence,
)
from engine.messages import CacheSizes, CacheUse
from scheduler.loop_layout import LoopLayout
from tests.engine.harness import checkpoint
from tests.engine.test_config import RELEASED
from tests.make_checkpoint import random_config


def test_released_figures() -> None:
    config = parse_config(RELEASED)
    assert one_loop_bytes_per_token(config, 2) == 56 * 1024
    assert sequential_bytes_per_token(config, 2) == 112 * 1024
    assert round(window_bytes_per_sequence(config, 2) / 2**20, 2) == 3.55
    assert carry_bytes_per_sequence(config, 2) == 10 * 1024


def test_one_loop_costs_no_more_than_a_plain_model() -> None:
    config = parse_config(random_config(plt_num_loops=1))
    assert one_loop_bytes_per_token(config, 4) == sequential_bytes_per_token(config, 4) == 2 * 2 * 2 * 16 * 4
    assert window_bytes_per_sequence(config, 4) == carry_bytes_per_sequence(config, 4) == 0


@pytest.mark.parametrize("loops", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_cache_dtype": "bfloat16"},
        {"prefix_caching": False},
        {"attention_backend": "reference", "dtype": "bfloat16"},
        {"attention_backend": "reference", "kv_cache_dtype": "fp8"},
    ],
)
def test_sizes_are_those_of_the_tensors(loops: int, options: dict[str, object]) -> None:
    core = checkpoint(plt_num_loops=loops).core(**options)
    sizes, state = core.ready().cache, core.model.runner.state
    assert sizes is not None
    assert sizes.kv_block == sum(cache.keys[0].nbytes + cache.values[0].nbytes for cache in state.caches)
    snapshots = state.block_hidden[0].nbytes if len(state.block_hidden) > 1 else 0
    assert sizes.block_hidden == snapshots
    assert (snapshots > 0) == (loops > 1 and options.get("prefix_caching", True))
    assert sizes.carry_slot == state.carries[0].nbytes


def test_a_running_sequence_holds_what_the_published_figures_say() -> None:
    """LoopCoder-V2 in bfloat16 at 8,192 tokens: 448 MiB shared, at most 5 window blocks, one carry."""
    shared, window, carry = 56 * 1024 * 16, 5, 5120 * 2
    sizes = CacheSizes(kv_block=shared, block_hidden=10 * 1024, carry_slot=carry, window_blocks=window)
    use = CacheUse(blocks=[512, 5], sequential_blocks=1024, carry_slots=[1], tokens=8192)
    held = held_bytes(use, sizes)
    assert held == {
        ("shared", 0): 512 * (shared + 10240),
        ("window", 1): 5 * (shared + 10240),
        ("carry", 0): carry,
    }
    assert baseline_bytes(use, sizes) == {"sequential": 896 * 2**20, "one_loop": 448 * 2**20}
    assert sum(held.values()) / baseline_bytes(use, sizes)["one_loop"] == pytest.approx(1.02, abs=0.005)


@given(
    layout=st.builds(
        LoopLayout,
        num_loops=st.integers(1, 4),
        offset=st.just(1),
        window=st.integers(0, 70),
        num_layers=st.just(1),
        block_size=st.integers(1, 40),
    ),
    length=st.integers(1, 500),
    num_blocks=st.integers(1, 3000),
    block_hidden=st.integers(0, 50),
)
def test_as_many_sequences_fit_as_their_blocks_allow(
    layout: LoopLayout, length: int, num_blocks: int, block_hidden: int
) -> None:
    sizes = CacheSizes(
        kv_block=100, block_hidden=block_hidden, carry_slot=1, window_blocks=layout.window_blocks(1)
    )
    fitting = fitting_sequences(sizes, num_blocks, layout.num_loops, layout.block_size, length)
    context = len({position // layout.block_size for position in range(length)})
    # the most that a kept window and the newest position take, wherever up to this length it lies
    window = max(
        len({i // layout.block_size for i in range(max(0, newest - layout.kept_window), newest + 1)})
        for newest in range(length)
    )
    reserved = min(context, layout.window_blocks(1))
    assert window <= reserved
    assert window == reserved or length < layout.kept_window + 2 * layout.block_size
    taken = context + (layout.num_loops - 1) * reserved
    assert fitting["shared"] * taken <= num_blocks < (fitting["shared"] + 1) * taken
    pool = num_blocks * (100 + block_hidden)
    for name, blocks in (("one_loop", context), ("sequential", layout.num_loops * context)):
        assert fitting[name] * blocks * 100 <= pool < (fitting[name] + 1) * blocks * 100

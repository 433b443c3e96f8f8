"""Content keys, and the search for the cheapest exact start against a brute-force one."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.block_pool import BlockPool
from scheduler.loop_layout import LoopCache, LoopLayout, plan_every_position, plan_recompute, plan_restore
from scheduler.prefix_cache import block_key, chain_keys, find_start, kept_block_range, root_key

LAYOUT = LoopLayout(num_loops=2, offset=1, window=4, num_layers=2, block_size=4)
TOKENS = list(range(100, 143))


def keys_of(tokens: list[int], layout: LoopLayout = LAYOUT, tenant: str = "", salt: str = "") -> list[bytes]:
    keys: list[bytes] = []
    chain_keys(keys, root_key(layout, tenant, salt), tokens, layout.block_size)
    return keys


def pool_with(keys: list[bytes], cached: set[tuple[int, int]]) -> BlockPool:
    """A pool whose evictable blocks are `cached`, pairs of (block index, loop)."""
    pool = BlockPool(len(cached) + 1)
    for index, loop in sorted(cached):
        (block,) = pool.allocate(1)
        pool.register(block, (keys[index], loop), "")
        pool.release(block)
    return pool


def blocks(loop: int, *indices: int) -> set[tuple[int, int]]:
    return {(index, loop) for index in indices}


def test_one_key_per_full_block_whether_chained_at_once_or_bit_by_bit():
    keys = keys_of(TOKENS)
    assert len(keys) == len(set(keys)) == len(TOKENS) // LAYOUT.block_size
    grown: list[bytes] = []
    for length in range(len(TOKENS) + 1):
        chain_keys(grown, root_key(LAYOUT, "", ""), TOKENS[:length], LAYOUT.block_size)
        assert grown == keys[: length // LAYOUT.block_size]
    assert keys[1] == block_key(keys[0], TOKENS[4:8])
    assert {len(key) for key in keys} == {32}, "bytes; a collision takes 2**128 tries"


@pytest.mark.parametrize("changed", [0, 5, 42])
def test_a_changed_token_changes_its_block_and_all_later_ones_only(changed):
    tokens = list(TOKENS)
    tokens[changed] += 1
    first = changed // LAYOUT.block_size
    before, after = keys_of(TOKENS), keys_of(tokens)
    assert before[:first] == after[:first]
    assert not set(before[first:]) & set(after[first:])


@pytest.mark.parametrize("field", ["num_loops", "offset", "window", "num_layers", "block_size"])
def test_another_layout_shares_no_key(field):
    other = replace(LAYOUT, **{field: getattr(LAYOUT, field) + 1})
    assert root_key(other, "", "") != root_key(LAYOUT, "", "")
    assert not set(keys_of(TOKENS)) & set(keys_of(TOKENS, other))


NAMES = st.text(
    alphabet=st.sampled_from(["a", "b", "'", '"', "\\", ",", " ", "\0", "\ud800", "é"]), max_size=4
)


@settings(max_examples=300, deadline=None)
@given(one=st.tuples(NAMES, NAMES), other=st.tuples(NAMES, NAMES))
@example(one=("a", "b"), other=("ab", ""))
@example(one=("", "a"), other=("a", ""))
@example(one=("a', 'b", "c"), other=("a", "b', 'c"))
def test_another_tenant_or_salt_shares_no_key(one, other):
    mine, theirs = (set(keys_of(TOKENS, tenant=tenant, salt=salt)) for tenant, salt in (one, other))
    assert mine == theirs if one == other else not mine & theirs


def test_nothing_cached_is_a_cold_start():
    assert find_start(LAYOUT, BlockPool(4), keys_of(TOKENS), 43) == plan_recompute(LAYOUT, 43, 0)


def test_shared_blocks_alone_are_recomputed_from():
    keys = keys_of(TOKENS)
    plan = find_start(LAYOUT, pool_with(keys, blocks(0, *range(10))), keys, 43)
    assert plan == plan_recompute(LAYOUT, 43, 40)


def test_shared_and_window_blocks_are_restored():
    keys = keys_of(TOKENS)
    plan = find_start(LAYOUT, pool_with(keys, blocks(0, *range(10)) | blocks(1, 9)), keys, 43)
    assert plan == plan_restore(LAYOUT, 43, 40)
    assert plan.num_rows == 6


def test_a_nearer_boundary_is_restored_only_if_that_is_cheaper():
    keys = keys_of(TOKENS)
    shared = blocks(0, *range(10))
    recompute = plan_recompute(LAYOUT, 43, 40)
    plan = find_start(LAYOUT, pool_with(keys, shared | blocks(1, 8)), keys, 43)
    assert plan == plan_restore(LAYOUT, 43, 36)
    assert plan.num_rows < recompute.num_rows
    assert find_start(LAYOUT, pool_with(keys, shared | blocks(1, 2)), keys, 43) == recompute


def test_a_gap_ends_the_hit():
    keys = keys_of(TOKENS)
    plan = find_start(LAYOUT, pool_with(keys, blocks(0, 0, 1, 3, 4) | blocks(1, *range(10))), keys, 43)
    assert plan.shared_hit == 8


@pytest.mark.parametrize(("length", "hit"), [(40, 36), (41, 40), (4, 0), (5, 4)])
def test_the_last_token_is_always_computed(length, hit):
    keys = keys_of(TOKENS)
    cached = blocks(0, *range(10)) | blocks(1, *range(10))
    plan = find_start(LAYOUT, pool_with(keys, cached), keys[: length // 4], length)
    assert plan.shared_hit == hit
    assert all(start < length for start in plan.starts)


def test_a_hit_goes_with_its_evicted_blocks():
    keys = keys_of(TOKENS)
    pool = pool_with(keys, blocks(0, *range(10)) | blocks(1, 9))  # released, thus evicted, in index order
    assert find_start(LAYOUT, pool, keys, 43).restored == 40
    pool.allocate(2)  # the spare one and the shared block 0
    assert find_start(LAYOUT, pool, keys, 43) == plan_recompute(LAYOUT, 43, 0)


def test_a_restore_goes_with_its_evicted_window():
    keys = keys_of(TOKENS)
    pool = BlockPool(11)
    for index, loop in [(9, 1), *((index, 0) for index in range(10))]:
        (block,) = pool.allocate(1)
        pool.register(block, (keys[index], loop), "")
        pool.release(block)
    assert find_start(LAYOUT, pool, keys, 43).restored == 40
    pool.allocate(1)
    assert find_start(LAYOUT, pool, keys, 43) == plan_recompute(LAYOUT, 43, 40)


@settings(max_examples=200, deadline=None)
@given(
    layout=st.builds(
        LoopLayout,
        num_loops=st.integers(1, 3),
        offset=st.integers(0, 1),
        window=st.integers(0, 6),
        num_layers=st.integers(1, 2),
        block_size=st.integers(1, 4),
        cache=st.sampled_from(LoopCache),
    ),
    length=st.integers(1, 40),
    shared=st.integers(0, 40),
    data=st.data(),
)
def test_no_exact_start_is_cheaper(layout, length, shared, data):
    keys = keys_of(list(range(length)), layout)
    shared = min(shared, len(keys))
    later = [(i, loop) for i in range(len(keys)) for loop in range(1, layout.num_loops)]
    gone = data.draw(st.sets(st.sampled_from(later), max_size=6)) if later else set()
    cached = blocks(0, *range(shared)) | set(later) - gone
    found = find_start(layout, pool_with(keys, cached), keys, length)

    hits = range(min(shared, (length - 1) // layout.block_size) + 1)
    plans = [plan_recompute(layout, length, hit * layout.block_size) for hit in hits]
    for hit in hits[1:]:
        plan = plan_restore(layout, length, hit * layout.block_size)
        wanted = kept_block_range(layout, plan.restored)
        loops = [loop for loop in range(1, layout.num_loops) if plan.restores_loop(loop)]
        if all((index, loop) in cached for loop in loops for index in wanted):
            plans.append(plan)
    assert found in plans
    assert found.num_rows == min(plan.num_rows for plan in plans)


@pytest.mark.parametrize(("boundary", "expected"), [(4, [0]), (8, [1]), (40, [9])])
def test_window_blocks_reach_back_one_window(boundary, expected):
    assert list(kept_block_range(LAYOUT, boundary)) == expected
    wider = replace(LAYOUT, window=5)
    assert list(kept_block_range(wider, boundary)) == sorted({max(0, expected[0] - 1), *expected})


def test_with_one_loop_there_is_nothing_to_restore():
    """Both ways compute as many rows; recomputing copies nothing."""
    layout = replace(LAYOUT, num_loops=1)
    keys = keys_of(TOKENS, layout)
    plan = find_start(layout, pool_with(keys, {(index, 0) for index in range(10)}), keys, 43)
    assert (plan.shared_hit, plan.restored, plan.num_rows) == (40, None, 3)


def test_without_windows_the_blocks_of_all_loops_must_be_there():
    own = replace(LAYOUT, num_loops=3, cache=LoopCache.OWN)
    keys = keys_of(TOKENS, own)
    cached = blocks(0, *range(10)) | blocks(1, *range(7)) | blocks(2, 0, 1, 2, 3, 5, 6)
    plan = find_start(own, pool_with(keys, cached), keys, 43)
    assert plan == plan_restore(own, 43, 16)
    assert plan.starts == (16, 16, 16)
    assert find_start(own, pool_with(keys, blocks(0, *range(10))), keys, 43) == plan_every_position(own, 43)
    assert list(kept_block_range(own, 16)) == [0, 1, 2, 3]

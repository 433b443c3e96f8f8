"""Where loops start, and whether what a plan calls exact really depends on exact inputs only."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.loop_layout import (
    LoopCache,
    LoopLayout,
    StartPlan,
    plan_every_position,
    plan_recompute,
    plan_restore,
)

CODER = LoopLayout(num_loops=2, offset=1, window=64, num_layers=14, block_size=16)  # LoopCoder-V2

LAYOUTS = st.builds(
    LoopLayout,
    num_loops=st.integers(1, 4),
    offset=st.integers(0, 1),
    window=st.integers(0, 5),
    num_layers=st.integers(1, 3),
    block_size=st.integers(1, 5),
    cache=st.sampled_from(LoopCache),
)


def seen_from(layout: LoopLayout, position: int) -> int:
    """First of its own keys that a later loop's row reads."""
    return max(0, position - layout.window) if layout.cache is LoopCache.WINDOW else 0


def exact_positions(
    layout: LoopLayout, length: int, plan: StartPlan
) -> tuple[list[set[int]], list[set[int]]]:
    """Per loop the positions with exact K/V of all layers, and with exact H, by following every dependency.

    Trusts only what the cache is asked for: K/V of loop 0 below the hit, what later loops restore, restored H vectors.
    """
    kv: list[set[int]] = []
    hidden: list[set[int]] = []
    for loop in range(layout.num_loops):
        start = plan.starts[loop]
        computed = range(start, length)
        if loop == 0:
            assert start <= plan.shared_hit, "loop 0 leaves a hole in the shared cache"
            kv.append(set(computed))
            hidden.append(set(computed))
            continue
        inputs = set(hidden[loop - 1])
        restored: set[int] = set()
        if plan.restores_loop(loop):
            restored = set(range(seen_from(layout, start), start))
            inputs |= {start - 1} if layout.offset else set()
        exact = {i for i in computed if i < layout.offset or i - layout.offset in inputs}
        in_all_layers = set(exact)
        for _ in range(layout.num_layers):
            in_all_layers &= exact
            readable = exact | restored
            exact = {i for i in exact if all(j in readable for j in range(seen_from(layout, i), i))}
        kv.append(in_all_layers)
        hidden.append(exact)
    return kv, hidden


def check_claims(layout: LoopLayout, length: int, plan: StartPlan) -> None:
    kv, hidden = exact_positions(layout, length, plan)
    for loop in range(layout.num_loops):
        assert kv[loop] == set(range(plan.kv_exact_from[loop], length))
        assert hidden[loop] == set(range(plan.hidden_exact_from[loop], length))
        assert plan.starts[loop] <= plan.kv_exact_from[loop] <= plan.hidden_exact_from[loop]
    for exact_from in (plan.starts, plan.kv_exact_from, plan.hidden_exact_from):
        assert list(exact_from) == sorted(exact_from)


def check_can_decode(layout: LoopLayout, length: int, plan: StartPlan) -> None:
    """Exact logits, and exact windows and carries to go on from."""
    kv, hidden = exact_positions(layout, length, plan)
    for loop in range(layout.num_loops):
        assert length - 1 in hidden[loop]
        if loop > 0:
            start = plan.starts[loop]
            restored = range(seen_from(layout, start), start if plan.restores_loop(loop) else 0)
            needed = set(range(seen_from(layout, length), length))
            assert needed <= kv[loop] | set(restored)


def test_tail_starts_of_loopcoder_v2():
    assert CODER.look_back == 896
    assert CODER.tail_starts(10_000) == (0, 10_000 - 897)
    assert plan_recompute(CODER, 10_000, 0).num_rows == 10_000 + 897


def test_tail_starts_of_three_loops():
    three = replace(CODER, num_loops=3)
    assert three.tail_starts(10_000) == (0, 10_000 - 2 * 897, 10_000 - 897)
    assert replace(three, offset=0).tail_starts(10_000) == (0, 10_000 - 2 * 896 - 1, 10_000 - 897)


@pytest.mark.parametrize(("length", "start"), [(1, 0), (896, 0), (897, 0), (898, 1)])
def test_short_prompts_start_at_the_beginning(length, start):
    assert CODER.tail_starts(length) == (0, start)


def test_every_position_means_every_row_and_all_exact():
    plan = plan_every_position(replace(CODER, num_loops=3), 2000)
    assert plan.num_rows == 6000
    assert plan.kv_exact_from == plan.hidden_exact_from == (0, 0, 0)


def test_recompute_reruns_loop_0_where_the_tail_needs_its_hidden_vectors():
    assert plan_recompute(CODER, 10_000, 9_984).starts == (9_102, 9_103)
    assert plan_recompute(CODER, 10_000, 9_984).num_rows == 898 + 897
    assert plan_recompute(CODER, 10_000, 160).starts == (160, 9_103)
    assert plan_recompute(replace(CODER, num_loops=1), 100, 96).num_rows == 4


def test_restore_goes_on_from_the_boundary_or_the_later_tail():
    near = plan_restore(CODER, 10_000, 9_984)
    assert (near.starts, near.num_rows) == ((9_984, 9_984), 32)
    assert near.restores_loop(1)
    assert near.window_floor(1) == 0
    far = plan_restore(CODER, 10_000, 160)
    assert far.starts == (160, 9_103)
    assert not far.restores_loop(1)
    assert far.window_floor(1) == 9_103


@settings(max_examples=300, deadline=None)
@given(layout=LAYOUTS, length=st.integers(1, 60), data=st.data())
def test_what_a_recompute_calls_exact_is_exact_and_no_less(layout, length, data):
    hit = data.draw(st.integers(0, (length - 1) // layout.block_size)) * layout.block_size
    plan = plan_recompute(layout, length, hit)
    check_claims(layout, length, plan)
    check_can_decode(layout, length, plan)
    assert plan.num_rows == sum(length - start for start in plan.starts)


@settings(max_examples=300, deadline=None)
@given(layout=LAYOUTS, length=st.integers(2, 60), data=st.data())
def test_what_a_restore_calls_exact_is_exact_and_no_less(layout, length, data):
    boundary = data.draw(st.integers(0, (length - 1) // layout.block_size)) * layout.block_size
    if boundary == 0:
        return
    plan = plan_restore(layout, length, boundary)
    check_claims(layout, length, plan)
    check_can_decode(layout, length, plan)
    assert plan.num_rows <= layout.num_loops * (length - boundary)


@settings(max_examples=200, deadline=None)
@given(layout=LAYOUTS, length=st.integers(1, 60), data=st.data())
def test_no_loop_could_start_later(layout, length, data):
    loop = data.draw(st.integers(0, layout.num_loops - 1))
    plan = plan_recompute(layout, length, 0)
    starts = list(plan.starts)
    if loop == 0 or starts[loop] == 0 or starts[loop] + 1 >= length:  # at 0 it may be cut off, thus early
        return
    starts[loop] += 1
    _, hidden = exact_positions(layout, length, replace(plan, starts=tuple(starts)))
    assert length - 1 not in hidden[-1]


@settings(max_examples=200, deadline=None)
@given(layout=LAYOUTS, rows=st.integers(1, 20), length=st.integers(1, 40))
def test_blocks_are_counted_for_the_worst_alignment_and_no_more(layout, rows, length):
    layout, size = replace(layout, cache=LoopCache.WINDOW), layout.block_size

    def window(rows: int) -> int:
        reaches = (range(start, start + layout.kept_window + rows) for start in range(size))
        return max(len({position // size for position in reach}) for reach in reaches)

    assert layout.window_blocks(rows) == window(rows)
    shared = len({position // size for position in range(length)})
    assert layout.blocks_for(length, rows) == shared + (layout.num_loops - 1) * window(min(length, rows))


@settings(max_examples=200, deadline=None)
@given(layout=LAYOUTS, length=st.integers(1, 60), rows=st.integers(1, 30))
def test_loops_with_contexts_of_their_own_start_at_the_beginning_and_keep_all(layout, length, rows):
    own = replace(layout, cache=LoopCache.OWN)
    assert own.tail_starts(length) == (0,) * layout.num_loops
    plan = plan_recompute(own, length, 0)
    assert plan == plan_every_position(own, length)
    assert plan.num_rows == layout.num_loops * length
    assert plan.kv_exact_from == plan.hidden_exact_from == (0,) * layout.num_loops
    blocks = -(-length // layout.block_size)
    assert own.blocks_for(length, rows) == layout.num_loops * blocks
    assert own.kept_from(length) == 0
    assert own.num_windows == 0


@settings(max_examples=100, deadline=None)
@given(layout=LAYOUTS, length=st.integers(2, 60), data=st.data())
def test_such_loops_all_go_on_from_the_same_boundary(layout, length, data):
    own = replace(layout, cache=LoopCache.OWN, block_size=1)
    boundary = data.draw(st.integers(1, length - 1))
    plan = plan_restore(own, length, boundary)
    assert plan.starts == plan.kv_exact_from == plan.hidden_exact_from == (boundary,) * layout.num_loops
    assert all(plan.restores_loop(loop) and plan.window_floor(loop) == 0 for loop in range(1, own.num_loops))

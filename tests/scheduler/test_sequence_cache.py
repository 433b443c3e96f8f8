"""What a sequence takes and gives back: neither a block too many nor a moment too late."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.block_pool import BlockPool
from scheduler.carry_pool import CarryPool, required_capacity
from scheduler.loop_layout import LoopCache, LoopLayout
from scheduler.scheduler import Scheduler, SchedulerLimits
from scheduler.sequence import Sequence
from scheduler.sequence_cache import SequenceCache

LAYOUT = LoopLayout(num_loops=2, offset=1, window=4, num_layers=1, block_size=4)
MAX_ROWS = 16


def cache_of(num_blocks: int, layout: LoopLayout = LAYOUT, prefix_caching: bool = True) -> SequenceCache:
    slots = required_capacity(layout.num_loops, 2, MAX_ROWS)
    return SequenceCache(BlockPool(num_blocks), CarryPool(slots), prefix_caching)


def sequence_of(tokens: list[int], layout: LoopLayout = LAYOUT) -> Sequence:
    return Sequence("a", tokens, len(tokens), layout)


def serve(scheduler: Scheduler, sequence: Sequence, tokens: int) -> None:
    """Until so many tokens have come."""
    scheduler.add(sequence)
    while sequence.num_output_tokens < tokens:
        step(scheduler)


def step(scheduler: Scheduler) -> None:
    plan = scheduler.schedule()
    last = {s.sequence: 1 for s in plan.segments if s.loop == s.sequence.layout.num_loops - 1}
    done = {s.sequence for s in plan.segments if s.stop == len(s.sequence)}
    scheduler.commit(plan, {sequence: 1 for sequence in last if sequence in done})


@pytest.mark.parametrize("reserve", [0, 1, 5])
def test_a_sequence_begins_only_if_all_it_may_need_is_there(reserve: int) -> None:
    wanted = LAYOUT.blocks_for(21, MAX_ROWS) + reserve
    short, enough = cache_of(wanted - 1), cache_of(wanted)
    sequence = sequence_of(list(range(21)))
    assert short.begin(sequence, MAX_ROWS, reserve) is None
    assert short.blocks.used == 0
    assert (sequence.tables, sequence.carries, sequence.next, sequence.plan) == ([], [], [], None)
    assert enough.begin(sequence, MAX_ROWS, reserve) == []
    assert enough.blocks.used == len(sequence.tables[0].blocks) == 6
    assert sequence.next == list(sequence.plan.starts)
    assert [len(table.blocks) for table in sequence.tables[1:]] == [0]


@pytest.mark.parametrize("missing", [0, 1])
def test_found_blocks_need_not_be_free(missing: int) -> None:
    """Those that are found are no longer among the available ones, but needn't be taken either."""
    limits = SchedulerLimits(1, MAX_ROWS)
    scheduler = Scheduler(LAYOUT, limits, LAYOUT.blocks_for(21, MAX_ROWS) + 3)
    past = sequence_of(list(range(21)))
    serve(scheduler, past, 1)
    scheduler.finish(past)
    cache, pool = scheduler.cache, scheduler.blocks
    wanted = LAYOUT.blocks_for(21, MAX_ROWS) - 5
    held = pool.allocate(len(pool.free))
    assert held is not None
    for block in held:
        pool.release(block)
    again = sequence_of(list(range(21)))
    hits = 5
    spare = pool.available - hits - wanted + missing
    restores = cache.begin(again, MAX_ROWS, spare)
    if missing:
        assert restores is None
        assert pool.used == 0
    else:
        assert restores is not None
        assert again.plan.shared_hit == 20


@settings(max_examples=60, deadline=None)
@given(
    num_loops=st.integers(1, 4),
    offset=st.integers(0, 1),
    block_size=st.integers(1, 5),
    prompt=st.integers(1, 30),
    max_rows=st.integers(4, 20),
)
def test_loops_with_contexts_of_their_own_give_nothing_back_while_they_run(
    num_loops, offset, block_size, prompt, max_rows
) -> None:
    layout = LoopLayout(num_loops, offset, 0, 1, block_size, LoopCache.OWN)
    scheduler = Scheduler(layout, SchedulerLimits(1, max_rows), 200)
    sequence = sequence_of([1] * prompt, layout)
    scheduler.add(sequence)
    while sequence.num_output_tokens < 12:
        step(scheduler)
        for table, done in zip(sequence.tables, sequence.next, strict=True):
            assert table.first == 0
            assert table.stop == -(-max(prompt, done) // block_size)
    assert scheduler.blocks.used <= layout.blocks_for(len(sequence), max_rows)


@settings(max_examples=80, deadline=None)
@given(
    num_loops=st.integers(1, 4),
    offset=st.integers(0, 1),
    window=st.integers(1, 9),
    block_size=st.integers(1, 5),
    prompt=st.integers(1, 30),
    max_rows=st.integers(4, 20),
)
def test_nothing_is_kept_that_no_row_will_read(
    num_loops, offset, window, block_size, prompt, max_rows
) -> None:
    layout = LoopLayout(num_loops, offset, window, 1, block_size)
    scheduler = Scheduler(layout, SchedulerLimits(1, max_rows), 200)
    sequence = sequence_of([1] * prompt, layout)
    scheduler.add(sequence)
    while sequence.num_output_tokens < 12:
        step(scheduler)
        for loop in range(1, num_loops):
            table, done = sequence.tables[loop], sequence.next[loop]
            begun = sequence.plan.starts[loop] // block_size
            assert table.first == max(begun, max(0, done - window) // block_size)
            assert not table.blocks or table.stop == -(-done // block_size)
            carry, start = sequence.carries[loop - 1], sequence.plan.starts[loop]
            assert carry.first == max(0, start - offset, done - offset)
            given_by = sequence.next[loop - 1]
            assert carry.first + len(carry.slots) == max(carry.first, given_by)
        assert sequence.tables[0].stop == -(-max(prompt, sequence.next[0]) // block_size)


def test_the_end_of_a_text_is_evicted_first() -> None:
    scheduler = Scheduler(LAYOUT, SchedulerLimits(1, MAX_ROWS), 40)
    past = sequence_of(list(range(21)))
    serve(scheduler, past, 1)
    keys = list(past.keys)
    scheduler.finish(past)
    pool = scheduler.blocks
    found = [[pool.lookup((key, 0)) is not None for key in keys]]
    for _ in range(2):
        pool.allocate(len(pool.free) + 1)
        found.append([pool.lookup((key, 0)) is not None for key in keys])
    assert found[0] == [True] * 5
    assert found[1:] == [[True] * 4 + [False], [True] * 3 + [False] * 2]


def test_the_loops_of_a_position_are_evicted_together_where_a_hit_needs_them_all() -> None:
    layout = replace(LAYOUT, num_loops=3, cache=LoopCache.OWN)
    scheduler = Scheduler(layout, SchedulerLimits(1, MAX_ROWS), 40)
    past = sequence_of(list(range(21)), layout)
    serve(scheduler, past, 1)
    keys = list(past.keys)
    scheduler.finish(past)
    pool = scheduler.blocks
    assert len(pool.evictable) > 10
    while pool.evictable:
        pool.allocate(len(pool.free) + 1)
        found = [[pool.lookup((key, loop)) is not None for key in keys] for loop in range(3)]
        assert all(each == sorted(each, reverse=True) for each in found), "ends go first"
        assert max(map(sum, found)) - min(map(sum, found)) <= 1


@pytest.mark.parametrize("missing", [0, 1])
def test_every_loops_blocks_of_a_prompt_are_taken_when_it_begins(missing: int) -> None:
    """Else the next prompt would be let in to the blocks that this one's later loops are about to need."""
    layout = replace(LAYOUT, num_loops=3, cache=LoopCache.OWN)
    cache = cache_of(3 * 6 - missing, layout)
    sequence = sequence_of(list(range(21)), layout)
    begun = cache.begin(sequence, MAX_ROWS, 0)
    assert (begun is None) == bool(missing)
    assert cache.blocks.used == (0 if missing else 18)


def test_only_exact_blocks_can_be_found() -> None:
    """A later loop's first blocks of a long prompt are computed before its look-back is filled."""
    layout = replace(LAYOUT, num_layers=2)
    scheduler = Scheduler(layout, SchedulerLimits(1, 64), 60)
    sequence = sequence_of(list(range(41)), layout)
    serve(scheduler, sequence, 12)
    plan, keys = sequence.plan, sequence.keys
    assert plan.starts == (0, 32)
    assert (plan.kv_exact_from[1], plan.hidden_exact_from[1]) == (36, 40)
    registered = [scheduler.blocks.lookup((key, 1)) is not None for key in keys]
    assert registered[:9] == [False] * 9
    assert all(registered[9:13])
    assert all(scheduler.blocks.lookup((key, 0)) is not None for key in keys[:13])


def test_a_block_counts_as_exact_with_the_hidden_vector_at_its_end() -> None:
    layout = replace(LAYOUT, num_loops=3, num_layers=2)
    cache, sequence = cache_of(80, layout), sequence_of(list(range(60)), layout)
    assert cache.begin(sequence, MAX_ROWS, 0) == []
    plan = sequence.plan
    for loop in range(3):
        for index in range(15):
            start, last = 4 * index, 4 * index + 3
            exact = start >= plan.kv_exact_from[loop] and (loop == 2 or last >= plan.hidden_exact_from[loop])
            assert cache.cacheable(sequence, loop, index) == exact
    sequence.plan = replace(plan, kv_exact_from=(0, 8, 8), hidden_exact_from=(0, 11, 12))
    assert [cache.cacheable(sequence, 1, index) for index in range(4)] == [False, False, True, True]
    sequence.plan = replace(plan, kv_exact_from=(0, 8, 8), hidden_exact_from=(0, 12, 12))
    assert [cache.cacheable(sequence, 1, index) for index in range(4)] == [False, False, False, True]
    assert [cache.cacheable(sequence, 2, index) for index in range(4)] == [False, False, True, True]


def test_growing_takes_what_is_missing_and_nothing_if_it_is_not_there() -> None:
    cache, sequence = cache_of(10), sequence_of([1] * 8)
    assert cache.begin(sequence, 4, 0) == []
    for stop, blocks in ((0, 2), (8, 2), (9, 3), (12, 3), (13, 4), (40, 10)):
        assert cache.grow(sequence, 0, stop)
        assert len(sequence.tables[0].blocks) == blocks
    assert not cache.grow(sequence, 0, 41)
    assert len(sequence.tables[0].blocks) == 10
    cache.release(sequence)
    cache.release(sequence)
    assert (sequence.tables, sequence.carries, sequence.next, sequence.plan) == ([], [], [], None)
    assert cache.blocks.used == 0
    assert len(cache.carries.free) == cache.carries.capacity


def test_without_a_prefix_cache_there_are_no_keys() -> None:
    scheduler = Scheduler(LAYOUT, SchedulerLimits(1, MAX_ROWS, prefix_caching=False), 40)
    sequence = sequence_of(list(range(21)))
    serve(scheduler, sequence, 3)
    assert sequence.keys == []
    assert scheduler.blocks.by_key == {}

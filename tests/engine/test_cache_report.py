"""Counts and map of the cache against the scheduler's tables, under random load."""

import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.cache_report as cache_report
from engine.cache_report import MOST_CELLS, cache_map, cache_use
from engine.kv_arithmetic import baseline_bytes, held_bytes
from engine.messages import CacheMap, CacheSizes
from scheduler.block_pool import BlockGroup, BlockPool
from scheduler.loop_layout import LoopLayout
from scheduler.scheduler import Scheduler, SchedulerLimits
from scheduler.sequence import Sequence

SIZES = CacheSizes(kv_block=1000, block_hidden=10, carry_slot=7, window_blocks=1)
Where = tuple[str, int | None]


def where_blocks_are(scheduler: Scheduler) -> list[Where]:
    """From tables and keys alone."""
    pool = scheduler.blocks
    found: list[Where] = [("free", None)] * pool.num_blocks
    for block in pool.evictable:
        key = pool.keys[block]
        assert key is not None
        found[block] = "cached", key[1]
    for sequence in scheduler.running:
        for loop, table in enumerate(sequence.tables):
            for block in table.blocks:
                found[block] = "held", loop
    return found


def check_map(drawn: CacheMap, truth: list[Where], num_loops: int) -> None:
    states = [(state.state, state.loop) for state in drawn.states]
    assert states == [
        *(("held", loop) for loop in range(num_loops)),
        *(("cached", loop) for loop in range(num_loops)),
        ("free", None),
    ]
    assert {
        s: state.blocks for s, state in zip(states, drawn.states, strict=True) if state.blocks
    } == Counter(truth)
    size = drawn.blocks_per_cell
    assert len(drawn.cells) == -(-len(truth) // size) <= cache_report.MOST_CELLS
    for number, cell in enumerate(drawn.cells):
        counts = Counter(truth[number * size : (number + 1) * size])
        most = max(counts.values())
        assert states[cell] == next(state for state in states if counts[state] == most)


def check_use(scheduler: Scheduler) -> None:
    use, running = cache_use(scheduler), scheduler.running
    num_loops = scheduler.layout.num_loops
    held = [
        {block for s in running for table in s.tables[loop : loop + 1] for block in table.blocks}
        for loop in range(num_loops)
    ]
    assert use.blocks == [len(blocks) for blocks in held]
    loops_of = {block: s.layout.num_loops for s in running for block in s.tables[0].blocks}
    assert use.sequential_blocks == sum(loops_of.values())
    slots = [
        [slot for s in running for carry in s.carries[loop : loop + 1] for slot in carry.slots]
        for loop in range(num_loops - 1)
    ]
    assert use.carry_slots == [len(of_loop) for of_loop in slots]
    assert use.tokens == sum(len(s) for s in running)
    by_group = held_bytes(use, SIZES)
    assert (
        sum(count for (group, _), count in by_group.items() if group != "carry")
        == scheduler.blocks.used * 1010
    )
    taken = scheduler.carries.capacity - len(scheduler.carries.free)
    assert sum(count for (group, _), count in by_group.items() if group == "carry") == taken * 7
    assert set(by_group) == {
        ("shared", 0),
        *(("window", loop) for loop in range(1, num_loops)),
        *(("carry", loop) for loop in range(num_loops - 1)),
    }
    baselines = baseline_bytes(use, SIZES)
    assert (
        baselines["one_loop"]
        == 1000 * use.blocks[0]
        <= baselines["sequential"]
        <= num_loops * baselines["one_loop"]
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_loops=st.integers(1, 4),
    offset=st.integers(0, 1),
    window=st.integers(0, 6),
    block_size=st.integers(1, 5),
    most_cells=st.sampled_from([3, 16, MOST_CELLS]),
    execution=st.sampled_from(["parallel", "sequential"]),
)
def test_counts_and_map_are_what_the_tables_say(
    seed, num_loops, offset, window, block_size, most_cells, execution
):
    rng = random.Random(seed)
    layout = LoopLayout(num_loops, offset, window, num_layers=1, block_size=block_size)
    limits = SchedulerLimits(max_num_seqs=3, max_rows=3 * num_loops + 6, execution=execution)
    longest = 24
    scheduler = Scheduler(layout, limits, layout.blocks_for(longest, limits.max_rows) + rng.randrange(12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_report, "MOST_CELLS", most_cells)
        for number in range(40):
            if rng.random() < 0.4:
                length = rng.randint(1, longest - 4)
                budget = replace(layout, num_loops=rng.randint(1, num_loops))
                # prompts are prefixes of one another, so that blocks are shared
                scheduler.add(Sequence(str(number), list(range(length)), length, budget))
            plan = scheduler.schedule()
            scheduler.commit(
                plan,
                {
                    s.sequence: 0
                    for s in plan.segments
                    if s.loop == s.sequence.layout.num_loops - 1 and s.stop == len(s.sequence)
                },
            )
            for sequence in [*scheduler.running]:
                if len(sequence) >= longest or rng.random() < 0.1:
                    scheduler.finish(sequence)
            check_use(scheduler)
            check_map(cache_map(scheduler.blocks, num_loops), where_blocks_are(scheduler), num_loops)


def test_a_shared_prefix_counts_once_and_windows_each():
    layout = LoopLayout(num_loops=2, offset=1, window=4, num_layers=1, block_size=4)
    scheduler = Scheduler(layout, SchedulerLimits(4, 64), 100)
    for number in range(4):
        scheduler.add(Sequence(str(number), list(range(20)), 20, layout))
        for _ in range(4):
            plan = scheduler.schedule()
            scheduler.commit(plan, {})
    use = cache_use(scheduler)
    assert len(scheduler.running) == 4
    assert use.tokens == 80
    assert use.blocks[0] == 4 + 4, "four whole blocks that all share, and one of its own each"
    assert use.sequential_blocks == 16


def test_a_map_of_a_million_blocks_is_small_and_takes_no_time():
    pool = BlockPool(1_000_000)
    held = pool.allocate(300_000, BlockGroup(0, 2))
    assert held is not None
    pool.allocate(100_000, BlockGroup(1, 2))
    for number, block in enumerate(held[:200_000]):
        pool.register(block, (b"%d" % number, 0), "")
        pool.release(block)
    started = time.perf_counter()
    drawn = cache_map(pool, 2)
    assert time.perf_counter() - started < 1.0, (
        "some milliseconds; a walk in Python would take longer even here"
    )
    assert len(drawn.cells) <= MOST_CELLS
    assert [state.blocks for state in drawn.states] == [100_000, 100_000, 200_000, 0, 600_000]
    shares = Counter(drawn.cells)
    assert shares[2] / len(drawn.cells) == pytest.approx(0.2, abs=0.01)
    assert shares[4] / len(drawn.cells) == pytest.approx(0.6, abs=0.01)

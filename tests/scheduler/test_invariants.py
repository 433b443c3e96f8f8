"""Each rule is really checked: a sound scheduler passes, and the smallest breach of a rule is named."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scheduler.block_pool import HELD, BlockGroup
from scheduler.errors import InvariantError
from scheduler.invariants import check, check_idle
from scheduler.loop_layout import LoopLayout
from scheduler.scheduler import Scheduler, SchedulerLimits
from scheduler.sequence import Sequence, SequenceState

LAYOUT = LoopLayout(num_loops=2, offset=1, window=4, num_layers=1, block_size=2)


def busy() -> Scheduler:
    """Two sequences decode, of which one shares blocks of the prefix cache with the past; two wait; two tenants have
    blocks that can be evicted."""
    scheduler = Scheduler(LAYOUT, SchedulerLimits(max_num_seqs=2, max_rows=16), num_blocks=60)
    for tenant, count in (("b", 12), ("c", 8), ("a", 10)):
        past = sequence(tenant, count)
        scheduler.add(past)
        step(scheduler, 6)
        scheduler.finish(past)
    for name, length in (("a", 10), ("d", 7), ("e", 3), ("f", 3)):
        scheduler.add(sequence(name, length))
    step(scheduler, 6)
    check(scheduler)
    assert [len(queue) for queue in (scheduler.running, scheduler.waiting)] == [2, 2]
    return scheduler


def sequence(tenant: str, length: int) -> Sequence:
    return Sequence(f"of {tenant}", list(range(length)), length, LAYOUT, tenant=tenant)


def step(scheduler: Scheduler, count: int) -> None:
    for _ in range(count):
        plan = scheduler.schedule()
        scheduler.commit(
            plan, {s.sequence: 1 for s in plan.segments if s.loop == 1 and s.stop == len(s.sequence)}
        )


def free_key(scheduler: Scheduler, block: int) -> None:
    """Take a block's content off the books."""
    pool = scheduler.blocks
    key = pool.keys[block]
    assert key is not None
    del pool.by_key[key]
    pool.keys[block] = pool.tenants[block] = None


def held_block(scheduler: Scheduler, keyed: bool) -> int:
    pool = scheduler.blocks
    return next(b for b in range(pool.num_blocks) if pool.refs[b] and (pool.keys[b] is not None) == keyed)


def lose_block(scheduler: Scheduler, loop: int, index: int) -> None:
    """Give a block of the last sequence back although it is needed; all books agree with that."""
    table = scheduler.running[-1].tables[loop]
    scheduler.blocks.release(table.blocks.pop(index))


# Each breach leaves everything that is checked before it in order.


def a_reference_too_many(scheduler: Scheduler) -> str:
    scheduler.blocks.refs[held_block(scheduler, keyed=False)] += 1
    return r"block \d+: 2 refs, 1 holders"


def a_reference_without_a_holder(scheduler: Scheduler) -> str:
    scheduler.blocks.refs[scheduler.blocks.free[0]] = 1
    return r"block \d+: 1 refs, 0 holders"


def a_block_twice_in_the_free_list(scheduler: Scheduler) -> str:
    scheduler.blocks.free.append(scheduler.blocks.free[0])
    return "the free list has a duplicate"


def a_free_block_that_can_be_evicted(scheduler: Scheduler) -> str:
    scheduler.blocks.free.append(next(iter(scheduler.blocks.evictable)))
    return "a block is both free and evictable"


def a_held_block_that_is_free(scheduler: Scheduler) -> str:
    scheduler.blocks.free.append(held_block(scheduler, keyed=False))
    return "a held block is free or evictable"


def a_held_block_that_can_be_evicted(scheduler: Scheduler) -> str:
    block = held_block(scheduler, keyed=True)
    scheduler.blocks.evictable.add(block, scheduler.blocks.tenants[block] or "")
    return "a held block is free or evictable"


def a_block_that_is_nowhere(scheduler: Scheduler) -> str:
    scheduler.blocks.free.pop()
    return "a block is nowhere"


def a_block_with_anothers_key(scheduler: Scheduler) -> str:
    pool = scheduler.blocks
    pool.keys[held_block(scheduler, keyed=True)] = (b"another", 0)
    return "a block does not carry the key that finds it"


def a_key_that_finds_nothing(scheduler: Scheduler) -> str:
    pool, block = scheduler.blocks, held_block(scheduler, keyed=False)
    pool.keys[block], pool.tenants[block] = (b"unknown", 0), scheduler.running[0].tenant
    return "a block's key does not find it"


def a_free_block_with_a_key(scheduler: Scheduler) -> str:
    pool = scheduler.blocks
    block = next(iter(pool.evictable))
    pool.evictable.remove(block, pool.tenants[block] or "")
    pool.free.append(block)
    return "a keyed block is free"


def an_evictable_block_without_a_key(scheduler: Scheduler) -> str:
    free_key(scheduler, next(iter(scheduler.blocks.evictable)))
    return "an evictable block has no key"


def a_key_without_a_tenant(scheduler: Scheduler) -> str:
    scheduler.blocks.tenants[held_block(scheduler, keyed=True)] = None
    return "a key without a tenant, or a tenant without a key"


def a_tenant_without_a_key(scheduler: Scheduler) -> str:
    scheduler.blocks.tenants[held_block(scheduler, keyed=False)] = scheduler.running[0].tenant
    return "a key without a tenant, or a tenant without a key"


def anothers_content(scheduler: Scheduler) -> str:
    scheduler.blocks.tenants[held_block(scheduler, keyed=True)] = "stranger"
    return "holds another tenant's block"


def a_place_in_anothers_queue(scheduler: Scheduler) -> str:
    queue = scheduler.blocks.evictable
    queue.tenants["b"], queue.tenants["c"] = queue.tenants["c"], queue.tenants["b"]
    return "a block waits for eviction in another tenant's place"


def a_tenant_under_the_wrong_count(scheduler: Scheduler) -> str:
    queue = scheduler.blocks.evictable
    queue.by_count[queue.most + 1] = queue.by_count.pop(queue.most)
    return "a tenant's count is wrong"


def a_count_that_no_tenant_has(scheduler: Scheduler) -> str:
    scheduler.blocks.evictable.by_count[99] = {}
    return "a tenant's count is wrong"


def a_length_that_hides_a_lost_block(scheduler: Scheduler) -> str:
    scheduler.blocks.free.pop()
    scheduler.blocks.evictable._length += 1
    return "the length of the queue is wrong"


def a_largest_count_too_low(scheduler: Scheduler) -> str:
    scheduler.blocks.evictable.most -= 1
    return "the largest count is wrong"


def a_largest_count_of_nothing(scheduler: Scheduler) -> str:
    scheduler.blocks.forget_all()
    scheduler.blocks.evictable.most = 1
    return "the largest count is wrong"


def a_held_block_that_is_not_counted(scheduler: Scheduler) -> str:
    held = scheduler.blocks.held
    held[next(group for group, count in held.items() if count)] -= 1
    return "a group's count is wrong"


def a_held_block_that_is_counted_for_another_loop(scheduler: Scheduler) -> str:
    held = scheduler.blocks.held
    held[BlockGroup(0, 2)] -= 1
    held[BlockGroup(1, 2)] += 1
    return "a group's count is wrong"


def a_free_block_on_the_map_of_held_ones(scheduler: Scheduler) -> str:
    scheduler.blocks.states[scheduler.blocks.free[0]] = HELD
    return "the map of blocks is wrong"


def a_cached_block_of_another_loop(scheduler: Scheduler) -> str:
    scheduler.blocks.states[next(iter(scheduler.blocks.evictable))] ^= 1
    return "the map of blocks is wrong"


def a_slot_of_two_carries(scheduler: Scheduler) -> str:
    one, other = (sequence.carries[0].slots for sequence in scheduler.running)
    other[0] = one[0]
    return "two carries share a slot"


def a_lost_slot(scheduler: Scheduler) -> str:
    scheduler.carries.free.pop()
    return "a carry slot is lost or doubled"


def the_zero_slot_for_hire(scheduler: Scheduler) -> str:
    scheduler.carries.free.append(0)
    return "a carry slot is lost or doubled"


def a_running_sequence_that_thinks_it_waits(scheduler: Scheduler) -> str:
    scheduler.running[0].state = SequenceState.WAITING
    return "a running sequence is in another state"


def a_waiting_sequence_that_has_finished(scheduler: Scheduler) -> str:
    scheduler.waiting[1].state = SequenceState.FINISHED
    return "a waiting sequence is in another state"


def a_running_sequence_out_of_order(scheduler: Scheduler) -> str:
    scheduler.running.reverse()
    return "running is out of order"


def a_waiting_sequence_out_of_order(scheduler: Scheduler) -> str:
    scheduler.waiting.reverse()
    return "waiting is out of order"


def a_waiting_sequence_with_tables(scheduler: Scheduler) -> str:
    scheduler.waiting[0].tables = [type(scheduler.running[0].tables[0])()]
    return "a waiting sequence holds something"


def a_waiting_sequence_with_carries(scheduler: Scheduler) -> str:
    scheduler.waiting[0].carries = [type(scheduler.running[0].carries[0])()]
    return "a waiting sequence holds something"


def more_sequences_than_may_run(scheduler: Scheduler) -> str:
    scheduler.limits = SchedulerLimits(max_num_seqs=1, max_rows=16)
    return "too many sequences run"


def rows_beyond_the_tokens(scheduler: Scheduler) -> str:
    last = scheduler.running[-1]
    last.next[0] = len(last) + 1
    return "loop 0 ran past the tokens"


@pytest.mark.parametrize("loop", [0, 1])
def test_computed_beyond_its_blocks(loop: int) -> None:
    scheduler = busy()
    last = scheduler.running[-1]
    while len(last) % LAYOUT.block_size != 1:
        step(scheduler, 1)
    lose_block(scheduler, loop, -1)
    check_breach(scheduler, f"loop {loop} computed beyond its blocks")


def test_loop_0_has_its_blocks_before_it_begins() -> None:
    """A later loop's table is empty until then."""
    scheduler = busy()
    last = scheduler.running[-1]
    assert last.plan is not None
    while len(last) % LAYOUT.block_size != 1:
        step(scheduler, 1)
    last.plan = replace(last.plan, starts=(last.next[0], *last.plan.starts[1:]))
    check(scheduler)
    lose_block(scheduler, 0, -1)
    check_breach(scheduler, "loop 0 computed beyond its blocks")


def test_loop_1_reads_hidden_0_at_position_1() -> None:
    scheduler = Scheduler(LAYOUT, SchedulerLimits(max_num_seqs=1, max_rows=4), num_blocks=60)
    scheduler.add(sequence("a", 4))
    step(scheduler, 1)
    check(scheduler)
    (begun,) = scheduler.running
    assert begun.next == [3, 1]
    scheduler.carries.release([begun.carries[0].slots.popleft()])
    begun.carries[0].first += 1
    check_breach(scheduler, "loop 1 lost its input")


def a_later_loop_ahead(scheduler: Scheduler) -> str:
    last = scheduler.running[-1]
    last.next[0] = last.next[1] - 1
    return "loop 1 is ahead of loop 0"


def a_window_without_its_first_visible_block(scheduler: Scheduler) -> str:
    table = scheduler.running[-1].tables[1]
    lose_block(scheduler, 1, 0)
    table.first += 1
    return "loop 1's window lost a visible block"


def a_carry_without_the_next_input(scheduler: Scheduler) -> str:
    carry = scheduler.running[-1].carries[0]
    carry.first += 1
    return "loop 1 lost its input"


BREACHES: list[Callable[[Scheduler], str]] = [
    a_reference_too_many,
    a_reference_without_a_holder,
    a_block_twice_in_the_free_list,
    a_free_block_that_can_be_evicted,
    a_held_block_that_is_free,
    a_held_block_that_can_be_evicted,
    a_block_that_is_nowhere,
    a_block_with_anothers_key,
    a_key_that_finds_nothing,
    a_free_block_with_a_key,
    an_evictable_block_without_a_key,
    a_key_without_a_tenant,
    a_tenant_without_a_key,
    anothers_content,
    a_place_in_anothers_queue,
    a_tenant_under_the_wrong_count,
    a_count_that_no_tenant_has,
    a_length_that_hides_a_lost_block,
    a_largest_count_too_low,
    a_largest_count_of_nothing,
    a_held_block_that_is_not_counted,
    a_held_block_that_is_counted_for_another_loop,
    a_free_block_on_the_map_of_held_ones,
    a_cached_block_of_another_loop,
    a_slot_of_two_carries,
    a_lost_slot,
    the_zero_slot_for_hire,
    a_running_sequence_that_thinks_it_waits,
    a_waiting_sequence_that_has_finished,
    a_running_sequence_out_of_order,
    a_waiting_sequence_out_of_order,
    a_waiting_sequence_with_tables,
    a_waiting_sequence_with_carries,
    more_sequences_than_may_run,
    rows_beyond_the_tokens,
    a_later_loop_ahead,
    a_window_without_its_first_visible_block,
    a_carry_without_the_next_input,
]


def check_breach(scheduler: Scheduler, rule: str) -> None:
    with pytest.raises(InvariantError, match=rule):
        check(scheduler)


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.__name__)
def test_every_breach_is_named(breach: Callable[[Scheduler], str]) -> None:
    scheduler = busy()
    check_breach(scheduler, breach(scheduler))


def idle() -> Scheduler:
    scheduler = busy()
    for each in [*scheduler.running, *scheduler.waiting]:
        scheduler.finish(each)
    check_idle(scheduler)
    return scheduler


def test_an_idle_scheduler_holds_nothing() -> None:
    with pytest.raises(InvariantError, match="sequences are left"):
        check_idle(busy())
    scheduler = idle()
    scheduler.blocks.allocate(3)
    with pytest.raises(InvariantError, match="3 blocks leaked"):
        check_idle(scheduler)
    scheduler = idle()
    scheduler.carries.allocate(1)
    with pytest.raises(InvariantError, match="carry slots leaked"):
        check_idle(scheduler)
    scheduler = idle()
    scheduler.blocks.keys[scheduler.blocks.free[0]] = (b"unknown", 0)
    with pytest.raises(InvariantError, match="does not find it"):
        check_idle(scheduler)

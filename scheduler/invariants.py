"""What must hold between any two steps. Tests and the simulator call `check` after every one."""

from scheduler.block_pool import CACHED, FREE, HELD, BlockGroup
from scheduler.errors import InvariantError
from scheduler.scheduler import Scheduler
from scheduler.sequence import Sequence, SequenceState


def check(scheduler: Scheduler) -> None:
    """Verify the scheduler's books.

    Raises:
        InvariantError: naming the first rule that is broken.
    """
    _check_blocks(scheduler)
    _check_tenants(scheduler)
    _check_groups(scheduler)
    _check_carries(scheduler)
    _check_queues(scheduler)
    for sequence in scheduler.running:
        _check_sequence(sequence)


def check_idle(scheduler: Scheduler) -> None:
    """With no sequence left, nothing is held."""
    _require(not scheduler.has_work, "sequences are left")
    _require(scheduler.blocks.used == 0, f"{scheduler.blocks.used} blocks leaked")
    _require(len(scheduler.carries.free) == scheduler.carries.capacity, "carry slots leaked")
    check(scheduler)


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise InvariantError(rule)


def _check_blocks(scheduler: Scheduler) -> None:
    """Whole lists and sets at a time: pools are large, and the simulator comes here millions of times."""
    pool = scheduler.blocks
    tables = [table.blocks for sequence in scheduler.running for table in sequence.tables]
    holders = [0] * pool.num_blocks
    for blocks in tables:
        for block in blocks:
            holders[block] += 1
    if holders != pool.refs:
        block = next(b for b in range(pool.num_blocks) if holders[b] != pool.refs[b])
        raise InvariantError(f"block {block}: {pool.refs[block]} refs, {holders[block]} holders")
    free, held = set(pool.free), set().union(*tables)
    _require(len(free) == len(pool.free), "the free list has a duplicate")
    _require(free.isdisjoint(pool.evictable), "a block is both free and evictable")
    _require(held.isdisjoint(free) and held.isdisjoint(pool.evictable), "a held block is free or evictable")
    _require(len(free) + len(pool.evictable) + len(held) == pool.num_blocks, "a block is nowhere")
    keyed = pool.by_key.values()
    _require(
        [pool.keys[block] for block in keyed] == list(pool.by_key),
        "a block does not carry the key that finds it",
    )
    _require(pool.num_blocks - pool.keys.count(None) == len(pool.by_key), "a block's key does not find it")
    _require(free.isdisjoint(keyed), "a keyed block is free")
    _require(all(pool.keys[block] is not None for block in pool.evictable), "an evictable block has no key")


def _check_tenants(scheduler: Scheduler) -> None:
    """Nobody holds another tenant's content, and the queue of eviction knows whose every block is."""
    pool, queue = scheduler.blocks, scheduler.blocks.evictable
    _require(
        [tenant is None for tenant in pool.tenants] == [key is None for key in pool.keys],
        "a key without a tenant, or a tenant without a key",
    )
    for sequence in scheduler.running:
        allowed = {None, sequence.tenant}
        for table in sequence.tables:
            found = {pool.tenants[block] for block in table.blocks}
            _require(found <= allowed, f"{sequence.sequence_id} holds another tenant's block")
    for tenant, blocks in queue.tenants.items():
        owners = {pool.tenants[block] for block in blocks}
        _require(owners == {tenant}, "a block waits for eviction in another tenant's place")
    counts = {tenant: len(blocks) for tenant, blocks in queue.tenants.items()}
    booked = {tenant: count for count, tenants in queue.by_count.items() for tenant in tenants}
    _require(counts == booked and all(queue.by_count.values()), "a tenant's count is wrong")
    _require(len(queue) == sum(counts.values()), "the length of the queue is wrong")
    _require(queue.most == max(counts.values(), default=0), "the largest count is wrong")


def _check_groups(scheduler: Scheduler) -> None:
    """What is counted by group, and drawn as a map, is what the tables say."""
    pool = scheduler.blocks
    held: dict[BlockGroup, set[int]] = {}
    for sequence in scheduler.running:
        for loop, table in enumerate(sequence.tables):
            group = BlockGroup(loop, sequence.layout.num_loops)
            held.setdefault(group, set()).update(table.blocks)
    counts = {group: len(blocks) for group, blocks in held.items() if blocks}
    _require(
        {group: count for group, count in pool.held.items() if count} == counts, "a group's count is wrong"
    )
    states = bytearray([FREE]) * pool.num_blocks
    for group, blocks in held.items():
        for block in blocks:
            states[block] = HELD + group.loop
    for block in pool.evictable:
        key = pool.keys[block]
        states[block] = FREE if key is None else CACHED + key[1]
    _require(states == pool.states, "the map of blocks is wrong")


def _check_carries(scheduler: Scheduler) -> None:
    pool = scheduler.carries
    taken = [slot for s in scheduler.running for carry in s.carries for slot in carry.slots]
    _require(len(set(taken)) == len(taken), "two carries share a slot")
    _require(
        sorted(taken + pool.free) == list(range(1, pool.capacity + 1)), "a carry slot is lost or doubled"
    )


def _check_queues(scheduler: Scheduler) -> None:
    for name, state in (("waiting", SequenceState.WAITING), ("running", SequenceState.RUNNING)):
        queue: list[Sequence] = getattr(scheduler, name)
        _require(all(s.state is state for s in queue), f"a {name} sequence is in another state")
        ranks = [s.rank for s in queue]
        _require(ranks == sorted(ranks), f"{name} is out of order")
    _require(
        all(not s.tables and not s.carries for s in scheduler.waiting), "a waiting sequence holds something"
    )
    _require(len(scheduler.running) <= scheduler.limits.max_num_seqs, "too many sequences run")


def _check_sequence(sequence: Sequence) -> None:
    layout, plan = sequence.layout, sequence.plan
    assert plan is not None
    for loop in range(layout.num_loops):
        table, done = sequence.tables[loop], sequence.next[loop]
        _require(done <= len(sequence), f"loop {loop} ran past the tokens")
        if done > plan.starts[loop] or loop == 0:
            _require(done <= table.stop * layout.block_size, f"loop {loop} computed beyond its blocks")
        if loop == 0:
            continue
        _require(done <= max(sequence.next[0], plan.starts[loop]), f"loop {loop} is ahead of loop 0")
        if layout.has_windows:
            visible = max(plan.window_floor(loop), done - layout.window)
            _require(table.first * layout.block_size <= visible, f"loop {loop}'s window lost a visible block")
        else:
            _require(table.first == 0, f"loop {loop} lost a block of its context")
        carry = sequence.carries[loop - 1]
        _require(carry.first <= max(0, done - layout.offset), f"loop {loop} lost its input")

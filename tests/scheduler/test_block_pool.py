"""The block pool against a small model of what it promises, under any sequence of operations."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.block_pool import CACHED, FREE, HELD, BlockGroup, BlockPool
from scheduler.errors import InvariantError

NUM_BLOCKS = 6
TENANTS = ("", "a", "b")
GROUPS = [BlockGroup(0, 2), BlockGroup(1, 2), BlockGroup(0, 3), BlockGroup(2, 3)]


class PoolMachine(RuleBasedStateMachine):
    """`holders` counts references; `contents` maps keys to blocks; `idle` lists evictable blocks, oldest first.

    A key names its tenant, as in the real thing. `quiet` lists tenants, the one whose idle blocks have not changed for
    longest first. `groups` says what each block was last handed out for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.holders: dict[int, int] = {}
        self.contents: dict[tuple[bytes, int], int] = {}
        self.idle: list[int] = []
        self.groups: dict[int, BlockGroup] = {}
        self.quiet: list[str] = list(TENANTS)

    def key_of(self, block: int) -> tuple[bytes, int] | None:
        return next((key for key, held in self.contents.items() if held == block), None)

    def tenant_of(self, block: int) -> str:
        key = self.key_of(block)
        assert key is not None
        return key[0].decode().rstrip("0123456789")

    def changed(self, tenant: str) -> None:
        self.quiet.remove(tenant)
        self.quiet.append(tenant)

    def evict(self) -> int:
        """The oldest of whoever has the most; with a tie, of who has been quiet for longest."""
        counts = Counter(self.tenant_of(block) for block in self.idle)
        loser = max(counts, key=lambda tenant: (counts[tenant], -self.quiet.index(tenant)))
        block = next(block for block in self.idle if self.tenant_of(block) == loser)
        self.changed(loser)
        self.idle.remove(block)
        del self.contents[self.key_of(block)]
        return block

    @rule(count=st.integers(0, NUM_BLOCKS + 1), group=st.sampled_from(GROUPS))
    def allocate(self, count: int, group: BlockGroup) -> None:
        free = NUM_BLOCKS - len(self.holders) - len(self.idle)
        blocks = self.pool.allocate(count, group)
        if count > free + len(self.idle):
            assert blocks is None
            return
        assert blocks is not None
        assert len(set(blocks)) == count
        assert not set(blocks) & set(self.holders)
        assert {self.evict() for _ in range(count - free)} <= set(blocks)
        self.holders |= dict.fromkeys(blocks, 1)
        self.groups |= dict.fromkeys(blocks, group)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.holders)))
        self.pool.release(block)
        self.holders[block] -= 1
        if not self.holders[block]:
            del self.holders[block]
            if self.key_of(block) is not None:
                self.idle.append(block)
                self.changed(self.tenant_of(block))

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def hit(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.contents)))
        block = self.pool.lookup(key)
        assert block == self.contents[key]
        self.pool.retain(block)
        self.holders[block] = self.holders.get(block, 0) + 1
        if block in self.idle:
            self.idle.remove(block)
            self.changed(self.tenant_of(block))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), tenant=st.sampled_from(TENANTS), content=st.integers(0, 5), loop=st.integers(0, 1))
    def register(self, data: st.DataObject, tenant: str, content: int, loop: int) -> None:
        block = data.draw(st.sampled_from(sorted(self.holders)))
        key = (f"{tenant}{content}".encode(), loop)
        self.pool.register(block, key, tenant)
        if key not in self.contents and self.key_of(block) is None:
            self.contents[key] = block

    @rule()
    def forget_all(self) -> None:
        self.pool.forget_all()
        self.contents.clear()
        self.idle.clear()

    @rule(block=st.integers(0, NUM_BLOCKS - 1))
    def release_of_an_unheld_block_is_refused(self, block: int) -> None:
        if block not in self.holders:
            with pytest.raises(InvariantError, match="more often than it was held"):
                self.pool.release(block)

    @invariant()
    def the_books_agree(self) -> None:
        assert self.pool.used == len(self.holders)
        assert self.pool.by_key == self.contents
        assert len(self.pool.evictable) == len(self.idle)
        for tenant in TENANTS:
            mine = [block for block in self.idle if self.tenant_of(block) == tenant]
            assert list(self.pool.evictable.tenants.get(tenant, ())) == mine
        assert [self.holders.get(block, 0) for block in range(NUM_BLOCKS)] == self.pool.refs
        assert sorted([*self.pool.free, *self.idle, *self.holders]) == list(range(NUM_BLOCKS))

    @invariant()
    def groups_and_the_map_agree(self) -> None:
        held = Counter(self.groups[block] for block in self.holders)
        assert {group: count for group, count in self.pool.held.items() if count} == held
        assert sum(self.pool.held.values()) == self.pool.used
        for block, state in enumerate(self.pool.states):
            loop = self.groups[block].loop if block in self.groups else 0
            if block in self.holders:
                assert state == HELD + loop
            else:
                assert state == (CACHED + loop if block in self.idle else FREE)


TestBlockPool = PoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class LeastRecentlyUsed:
    """What the pool did before there were tenants: the positive control, and the model for one tenant alone."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.idle: list[str] = []

    def use(self, content: str) -> bool:
        """Ask for a block with this content and let it go again; whether it was there."""
        found = content in self.idle
        if found:
            self.idle.remove(content)
        elif len(self.idle) == self.num_blocks:
            del self.idle[0]
        self.idle.append(content)
        return found


def use(pool: BlockPool, tenant: str, content: str) -> bool:
    """The same with the real pool."""
    key = (content.encode(), 0)
    block = pool.lookup(key)
    if block is not None:
        pool.retain(block)
        pool.release(block)
        return True
    blocks = pool.allocate(1)
    assert blocks is not None
    pool.register(blocks[0], key, tenant)
    pool.release(blocks[0])
    return False


@given(contents=st.lists(st.integers(0, 12), max_size=80))
def test_one_tenant_alone_has_plain_lru(contents: list[int]) -> None:
    pool, model = BlockPool(NUM_BLOCKS), LeastRecentlyUsed(NUM_BLOCKS)
    for content in contents:
        assert use(pool, "any", str(content)) == model.use(str(content))


@settings(max_examples=60, deadline=None)
@given(
    num_blocks=st.integers(4, 40),
    floods=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    num_floods=st.integers(1, 3),
)
def test_a_flood_takes_nothing_from_who_has_less_than_an_equal_share(
    num_blocks: int, floods: list[int], num_floods: int
) -> None:
    """B comes back to the same few blocks after each wave of the others' ever new ones, and finds every one."""
    pool, share = BlockPool(num_blocks), (num_blocks - 1) // (num_floods + 1)
    for wave, size in enumerate(floods):
        for number in range(size):
            use(pool, f"A{number % num_floods}", f"A {wave} {number}")
        found = [use(pool, "B", f"B {number}") for number in range(share)]
        assert all(found) or wave == 0


def test_plain_lru_would_lose_all_to_a_flood() -> None:
    """The positive control of the test above."""
    model, found = LeastRecentlyUsed(40), []
    for wave in range(10):
        for number in range(50):
            model.use(f"A {wave} {number}")
        found += [model.use(f"B {number}") for number in range(19)]
    assert not any(found)


def test_who_is_alone_may_have_everything() -> None:
    pool = BlockPool(20)
    for number in range(20):
        use(pool, "A", str(number))
    assert all(use(pool, "A", str(number)) for number in range(20))


@pytest.mark.parametrize("num_tenants", [1, 1000])
def test_evictions_stay_fast_with_many_tenants(num_tenants: int) -> None:
    """Some microseconds each; a search through 1,000 tenants takes over fifty."""
    pool = BlockPool(20_000)
    for number in range(20_000):
        use(pool, str(number % num_tenants), str(number))
    started = time.process_time()
    blocks = pool.allocate(20_000)
    seconds = time.process_time() - started
    assert blocks is not None
    assert seconds / 20_000 < 25e-6


def test_books_that_do_not_add_up_are_noticed_where_they_matter() -> None:
    pool = BlockPool(1)
    assert not use(pool, "A", "text")
    pool.keys[0] = None
    with pytest.raises(InvariantError, match="evictable block 0 has no key"):
        pool.allocate(1)
    pool = BlockPool(1)
    assert not use(pool, "A", "text")
    pool.tenants[0] = None
    with pytest.raises(InvariantError, match="keyed block 0 has no tenant"):
        pool.retain(0)

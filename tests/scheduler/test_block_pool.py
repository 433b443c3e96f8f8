"""The block pool against a small model of what it promises, under any sequence of operations."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.block_pool import BlockPool
from scheduler.errors import InvariantError

NUM_BLOCKS = 6


class PoolMachine(RuleBasedStateMachine):
    """`holders` counts references; `contents` maps keys to blocks; `idle` lists evictable blocks, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.holders: dict[int, int] = {}
        self.contents: dict[tuple[bytes, int], int] = {}
        self.idle: list[int] = []

    def key_of(self, block: int) -> tuple[bytes, int] | None:
        return next((key for key, held in self.contents.items() if held == block), None)

    @rule(count=st.integers(0, NUM_BLOCKS + 1))
    def allocate(self, count: int) -> None:
        free = NUM_BLOCKS - len(self.holders) - len(self.idle)
        blocks = self.pool.allocate(count)
        if count > free + len(self.idle):
            assert blocks is None
            return
        assert blocks is not None
        assert len(set(blocks)) == count
        assert not set(blocks) & set(self.holders)
        evicted = self.idle[: max(0, count - free)]
        assert set(evicted) <= set(blocks)
        for block in evicted:
            self.idle.remove(block)
            del self.contents[self.key_of(block)]
        self.holders |= dict.fromkeys(blocks, 1)

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

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), content=st.integers(0, 5), loop=st.integers(0, 1))
    def register(self, data: st.DataObject, content: int, loop: int) -> None:
        block = data.draw(st.sampled_from(sorted(self.holders)))
        key = (bytes([content]), loop)
        self.pool.register(block, key)
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
        assert list(self.pool.evictable) == self.idle
        assert [self.holders.get(block, 0) for block in range(NUM_BLOCKS)] == self.pool.refs
        assert sorted([*self.pool.free, *self.idle, *self.holders]) == list(range(NUM_BLOCKS))


TestBlockPool = PoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

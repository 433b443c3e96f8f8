"""The one pool of cache blocks: reference counts, prefix keys, eviction that is fair between tenants.

A block is in exactly one of three places: *free* (no content worth keeping), *held* (reference count ≥ 1) or
*evictable* (no holder, but its content is keyed and can be reused until the space is needed).
"""

from typing import NamedTuple

from scheduler.errors import InvariantError
from scheduler.eviction_queue import EvictionQueue

BlockKey = tuple[bytes, int]
"""Content key of a block: (hash of everything up to its end, loop)."""

FREE = 0
HELD = 1
CACHED = 128
"""Codes of `BlockPool.states`; the last two are those of loop 0, and loop l adds l."""


class BlockGroup(NamedTuple):
    """What a block is for: positions of one loop, of sequences with so many loops."""

    loop: int
    num_loops: int


SINGLE = BlockGroup(0, 1)


class BlockPool:
    """Book-keeping of `num_blocks` block ids; the tensors they index are the runner's.

    Attributes:
        tenants: per keyed block, whose content it is; None without a key.
        groups: per block, what it was last handed out for.
        held: per group, how many blocks have a holder; one that several share counts once.
        states: per block, a code of where it is and of which loop (`FREE`, `HELD`, `CACHED`), for whoever draws a map:
            a pool of a million blocks can be copied between two steps, but not be walked.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.refs = [0] * num_blocks
        self.keys: list[BlockKey | None] = [None] * num_blocks
        self.tenants: list[str | None] = [None] * num_blocks
        self.by_key: dict[BlockKey, int] = {}
        self.free = list(range(num_blocks - 1, -1, -1))
        self.evictable = EvictionQueue()
        self.groups = [SINGLE] * num_blocks
        self.held: dict[BlockGroup, int] = {}
        self.states = bytearray(num_blocks)

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out now."""
        return len(self.free) + len(self.evictable)

    @property
    def used(self) -> int:
        """Blocks held by sequences."""
        return self.num_blocks - self.available

    def allocate(self, count: int, group: BlockGroup = SINGLE) -> list[int] | None:
        """Take `count` blocks with one reference each, evicting what is needed; None if there are too few."""
        if count > self.available:
            return None
        blocks = []
        for _ in range(count):
            block = self.free.pop() if self.free else self._evict()
            self.refs[block] = 1
            self.groups[block] = group
            self.states[block] = HELD + group.loop
            blocks.append(block)
        self.held[group] = self.held.get(group, 0) + count
        return blocks

    def lookup(self, key: BlockKey) -> int | None:
        """The block with this content, without taking it."""
        return self.by_key.get(key)

    def retain(self, block: int) -> None:
        """Add a holder to a keyed block."""
        if self.refs[block] == 0:
            self.evictable.remove(block, self._tenant(block))
            group = self.groups[block]
            self.held[group] += 1
            self.states[block] = HELD + group.loop
        self.refs[block] += 1

    def release(self, block: int) -> None:
        """Drop one holder; the last one leaves the block evictable if it is keyed, else free.

        Raises:
            InvariantError: if nobody holds it.
        """
        if self.refs[block] <= 0:
            raise InvariantError(f"block {block} was released more often than it was held")
        self.refs[block] -= 1
        if self.refs[block] == 0:
            group = self.groups[block]
            self.held[group] -= 1
            if self.keys[block] is None:
                self.free.append(block)
                self.states[block] = FREE
            else:
                self.evictable.add(block, self._tenant(block))
                self.states[block] = CACHED + group.loop

    def register(self, block: int, key: BlockKey, tenant: str) -> None:
        """Make a held, completely written block findable. The first block with a content keeps the key.

        Args:
            key: covers the tenant, so no other tenant has a sequence that would look for it.
        """
        if key not in self.by_key and self.keys[block] is None:
            self.by_key[key] = block
            self.keys[block] = key
            self.tenants[block] = tenant

    def forget_all(self) -> None:
        """Drop every key; evictable blocks become free."""
        for block in self.by_key.values():
            self.keys[block] = self.tenants[block] = None
        self.by_key.clear()
        for block in self.evictable:
            self.states[block] = FREE
        self.free.extend(self.evictable)
        self.evictable = EvictionQueue()

    def _evict(self) -> int:
        block = self.evictable.pop()
        key = self.keys[block]
        if key is None:
            raise InvariantError(f"evictable block {block} has no key")
        del self.by_key[key]
        self.keys[block] = self.tenants[block] = None
        self.states[block] = FREE
        return block

    def _tenant(self, block: int) -> str:
        tenant = self.tenants[block]
        if tenant is None:
            raise InvariantError(f"keyed block {block} has no tenant")
        return tenant

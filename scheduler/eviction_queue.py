"""Which cached block goes next: the least recently used one of the tenant that has the most.

So a tenant whose cached blocks are fewer than an equal share of all cached ones loses none to another's flood, and with
one tenant it is plain LRU. Every operation takes constant time, whatever the number of tenants: a tenant's count only
ever changes by one, so the largest count can follow it.
"""

from collections import OrderedDict
from collections.abc import Iterator


class EvictionQueue:
    """Blocks that nobody holds but whose content may be asked for again.

    Attributes:
        tenants: per tenant that has any, its blocks, least recently used first.
        by_count: per number of blocks, the tenants that have so many, in the order in which they came to it.
        most: blocks of the tenant that has the most; 0 without any.
    """

    def __init__(self) -> None:
        self.tenants: dict[str, OrderedDict[int, None]] = {}
        self.by_count: dict[int, dict[str, None]] = {}
        self.most = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        for blocks in self.tenants.values():
            yield from blocks

    def add(self, block: int, tenant: str) -> None:
        """Queue a block as its tenant's most recently used."""
        blocks = self.tenants.get(tenant)
        if blocks is None:
            blocks = self.tenants[tenant] = OrderedDict()
        blocks[block] = None
        self._length += 1
        self._count(tenant, len(blocks) - 1, len(blocks))

    def remove(self, block: int, tenant: str) -> None:
        """Take out a block that is wanted again."""
        blocks = self.tenants[tenant]
        del blocks[block]
        self._length -= 1
        if not blocks:
            del self.tenants[tenant]
        self._count(tenant, len(blocks) + 1, len(blocks))

    def pop(self) -> int:
        """Take out the block that goes next; of tenants with equally many, the one quiet for longest loses it."""
        tenant = next(iter(self.by_count[self.most]))
        block = next(iter(self.tenants[tenant]))
        self.remove(block, tenant)
        return block

    def _count(self, tenant: str, before: int, after: int) -> None:
        """Book that a tenant has `after` blocks instead of `before`, one more or one less."""
        if before:
            peers = self.by_count[before]
            del peers[tenant]
            if not peers:
                del self.by_count[before]
        if after:
            self.by_count.setdefault(after, {})[tenant] = None
        if after > self.most or self.most not in self.by_count:
            self.most = after

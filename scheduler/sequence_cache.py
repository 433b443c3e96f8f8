"""What a sequence takes from the pools and gives back: the only module that moves blocks and carry slots."""

from scheduler.block_pool import BlockGroup, BlockPool
from scheduler.carry_pool import NO_SLOT, CarryPool
from scheduler.loop_layout import StartPlan, plan_every_position
from scheduler.prefix_cache import chain_keys, find_start, kept_block_range, root_key
from scheduler.sequence import BlockTable, Carry, Sequence
from scheduler.step_plan import CarryRestore


class SequenceCache:
    """Begins, grows, advances and releases the cache of sequences over one block pool and one carry pool."""

    def __init__(self, blocks: BlockPool, carries: CarryPool, prefix_caching: bool) -> None:
        self.blocks = blocks
        self.carries = carries
        self.prefix_caching = prefix_caching

    def begin(self, sequence: Sequence, max_rows: int, reserve: int) -> list[CarryRestore] | None:
        """Plan a waiting sequence's start and take its prompt's blocks, those of windows excepted.

        Args:
            max_rows: most rows of a step, which bounds the windows' growth.
            reserve: blocks that must stay available to others.

        Returns:
            Carry vectors to restore before its first pass, or None (and nothing taken) if the pool is too full.
        """
        self._update_keys(sequence)
        plan = self._plan(sequence)
        hits = self._hit_tables(sequence, plan)
        for table in hits:
            for block in table.blocks:
                self.blocks.retain(block)
        sequence.tables = hits
        length = len(sequence)
        held = sum(len(table.blocks) for table in hits)
        wanted = sequence.layout.blocks_for(length, max_rows) - held + reserve
        if wanted > self.blocks.available:
            self.release(sequence)
            return None
        sequence.plan = plan
        sequence.next = list(plan.starts)
        whole = 1 if sequence.layout.has_windows else sequence.layout.num_loops
        if not all(self.grow(sequence, loop, length) for loop in range(whole)):
            self.release(sequence)
            return None
        return self._begin_carries(sequence, plan)

    def grow(self, sequence: Sequence, loop: int, stop: int) -> bool:
        """Make sure that loop's table covers positions below `stop`; False if the pool is too full."""
        table, block_size = sequence.tables[loop], sequence.layout.block_size
        missing = (stop + block_size - 1) // block_size - table.stop
        if missing <= 0:
            return True
        blocks = self.blocks.allocate(missing, BlockGroup(loop, sequence.layout.num_loops))
        if blocks is None:
            return False
        table.blocks.extend(blocks)
        return True

    def take_slots(self, sequence: Sequence, loop: int, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Carry slots (inputs, outputs) of the rows ``[start, stop)`` of one loop."""
        layout = sequence.layout
        inputs: list[int] = []
        if loop > 0:
            carry = sequence.carries[loop - 1]
            inputs = [carry.slot_at(position - layout.offset) for position in range(start, stop)]
        if loop == layout.num_loops - 1:
            return inputs, []
        carry = sequence.carries[loop]
        unread = max(0, carry.first - start)  # rows that loop + 1 starts too late to read
        slots = self.carries.allocate(max(0, stop - start - unread))
        carry.slots.extend(slots)
        return inputs, [NO_SLOT] * (stop - start - len(slots)) + slots

    def advance(self, sequence: Sequence) -> None:
        """After a pass: key what is complete, then give back what nothing will read again."""
        if self.prefix_caching:
            self._update_keys(sequence)
            for loop in range(sequence.layout.num_loops):
                self._register(sequence, loop)
        for loop in range(1, sequence.layout.num_loops):
            if sequence.layout.has_windows:
                self._trim_window(sequence, loop)
            self._trim_carry(sequence, loop)

    def release(self, sequence: Sequence) -> None:
        """Give everything back. The one way out, for every reason; harmless when nothing is held."""
        for block in _by_worth(sequence):
            self.blocks.release(block)
        for carry in sequence.carries:
            self.carries.release(list(carry.slots))
        sequence.tables = []
        sequence.carries = []
        sequence.next = []
        sequence.plan = None

    def cacheable(self, sequence: Sequence, loop: int, index: int) -> bool:
        """Whether the block holds only exact K/V and, if a later loop needs it, an exact H at its end."""
        layout, plan = sequence.layout, sequence.plan
        assert plan is not None
        start, last = index * layout.block_size, (index + 1) * layout.block_size - 1
        if start < plan.kv_exact_from[loop]:
            return False
        return loop == layout.num_loops - 1 or last >= plan.hidden_exact_from[loop]

    def _update_keys(self, sequence: Sequence) -> None:
        if self.prefix_caching:
            root = root_key(sequence.layout, sequence.tenant, sequence.cache_salt)
            chain_keys(sequence.keys, root, sequence.tokens, sequence.layout.block_size)

    def _plan(self, sequence: Sequence) -> StartPlan:
        if sequence.every_position:
            return plan_every_position(sequence.layout, len(sequence))
        return find_start(sequence.layout, self.blocks, sequence.keys, len(sequence))

    def _hit_tables(self, sequence: Sequence, plan: StartPlan) -> list[BlockTable]:
        """Tables of the cached blocks that the plan builds on; other loops start with empty ones."""
        layout = sequence.layout
        hit = plan.shared_hit // layout.block_size
        tables = [BlockTable(0, [self._found(sequence, index, 0) for index in range(hit)], hit)]
        for loop in range(1, layout.num_loops):
            if plan.restores_loop(loop):
                assert plan.restored is not None
                kept = kept_block_range(layout, plan.restored)
                blocks = [self._found(sequence, index, loop) for index in kept]
                tables.append(BlockTable(kept.start, blocks, kept.stop))
            else:
                first = plan.starts[loop] // layout.block_size
                tables.append(BlockTable(first, [], first))
        return tables

    def _found(self, sequence: Sequence, index: int, loop: int) -> int:
        block = self.blocks.lookup((sequence.keys[index], loop))
        assert block is not None
        return block

    def _begin_carries(self, sequence: Sequence, plan: StartPlan) -> list[CarryRestore]:
        layout, restores = sequence.layout, []
        for loop in range(layout.num_loops - 1):
            start = plan.starts[loop + 1]
            carry = Carry(max(0, start - layout.offset))
            if plan.restores_loop(loop + 1) and layout.offset == 1:
                slot = self.carries.allocate(1)[0]
                carry.slots.append(slot)
                last_block = sequence.tables[loop].block_at(start // layout.block_size - 1)
                restores.append(CarryRestore(last_block, slot))
            sequence.carries.append(carry)
        return restores

    def _register(self, sequence: Sequence, loop: int) -> None:
        table = sequence.tables[loop]
        complete = sequence.next[loop] // sequence.layout.block_size
        for index in range(table.registered, complete):
            if self.cacheable(sequence, loop, index):
                self.blocks.register(table.block_at(index), (sequence.keys[index], loop), sequence.tenant)
        table.registered = max(table.registered, complete)

    def _trim_window(self, sequence: Sequence, loop: int) -> None:
        table, layout = sequence.tables[loop], sequence.layout
        visible_from = max(0, sequence.next[loop] - layout.window) // layout.block_size
        gone = max(0, min(visible_from - table.first, len(table.blocks)))
        for block in table.blocks[:gone]:
            self.blocks.release(block)
        del table.blocks[:gone]
        table.first += gone

    def _trim_carry(self, sequence: Sequence, loop: int) -> None:
        carry = sequence.carries[loop - 1]
        used: list[int] = []
        while carry.slots and carry.first < sequence.next[loop] - sequence.layout.offset:
            used.append(carry.slots.popleft())
            carry.first += 1
        self.carries.release(used)


def _by_worth(sequence: Sequence) -> list[int]:
    """All blocks held, those first that are worth least to a later hit and so are to be evicted first.

    Later positions are worth less. Without windows a position's blocks are of no use unless every loop's is there, so
    the loops' go together.
    """
    tables = sequence.tables
    if sequence.layout.has_windows:
        return [block for table in tables for block in reversed(table.blocks)]
    last = max((table.stop for table in tables), default=0) - 1
    return [
        table.block_at(index)
        for index in range(last, -1, -1)
        for table in tables
        if table.first <= index < table.stop
    ]

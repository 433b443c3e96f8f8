"""A new sequence holds nothing and has done nothing; its tables and carries know which position is where."""

from collections import deque

import pytest

from scheduler.loop_layout import LoopLayout
from scheduler.sequence import BlockTable, Carry, Sequence, SequenceState

LAYOUT = LoopLayout(num_loops=3, offset=1, window=4, num_layers=1, block_size=2)


def test_what_is_new_is_empty() -> None:
    new = Sequence("a", [1, 2, 3], 2, LAYOUT)
    assert (new.tenant, new.cache_salt, new.priority) == ("", "", 0)
    assert (new.every_position, new.every_loop) == (False, False)
    assert (new.state, new.rank, new.num_preemptions, new.cached_tokens) == (
        SequenceState.WAITING,
        (0, 0),
        0,
        0,
    )
    assert (new.plan, new.next, new.tables, new.carries, new.keys) == (None, [], [], [], [])
    assert BlockTable() == BlockTable(first=0, blocks=[], registered=0)
    assert Carry() == Carry(first=0, slots=deque())


def test_lengths() -> None:
    sequence = Sequence("a", [1, 2, 3, 4, 5], 2, LAYOUT)
    assert (len(sequence), sequence.num_output_tokens) == (5, 3)
    for done, decoding in ((0, False), (3, False), (4, True), (5, True)):
        sequence.next = [done, 0, 0]
        assert sequence.is_decoding == decoding


def test_two_sequences_of_equal_content_are_two() -> None:
    one, other = (Sequence("a", [1], 1, LAYOUT) for _ in range(2))
    assert one != other
    assert len({one, other}) == 2


def test_a_table_begins_where_its_window_does() -> None:
    table = BlockTable(first=3, blocks=[30, 40, 50])
    assert table.stop == 6
    assert [table.block_at(index) for index in (3, 4, 5)] == [30, 40, 50]


def test_a_carry_begins_where_it_was_read_last() -> None:
    carry = Carry(first=2, slots=deque([7, 8]))
    assert [carry.slot_at(position) for position in (2, 3)] == [7, 8]
    assert carry.slot_at(-1) == 0
    assert Carry(first=0, slots=deque([5])).slot_at(0) == 5
    with pytest.raises(IndexError):
        carry.slot_at(4)

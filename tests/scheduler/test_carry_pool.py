"""Slots are given out once, and never the zero slot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.carry_pool import NO_SLOT, ZERO_SLOT, CarryPool, required_capacity
from scheduler.errors import InvariantError


@given(counts=st.lists(st.integers(0, 5), max_size=10))
def test_slots_are_given_out_once(counts: list[int]) -> None:
    pool, held = CarryPool(8), []
    for count in counts:
        if count > 8 - len(held):
            with pytest.raises(InvariantError, match=f"carry pool of 8 slots can't give {count}"):
                pool.allocate(count)
            pool.release(held)
            held = []
        slots = pool.allocate(count)
        assert len(slots) == count
        held += slots
        assert sorted(held + pool.free) == list(range(1, 9))
    pool.release(held)
    assert sorted(pool.free) == list(range(1, 9))


def test_no_slot_for_hire_means_anything_else() -> None:
    assert (ZERO_SLOT, NO_SLOT) == (0, -1)  # the tensor's first row is zero, and its last is never read
    assert CarryPool(3).allocate(3)[-1] == 1, "low slots first"
    assert not {ZERO_SLOT, NO_SLOT} & set(CarryPool(3).free)


def test_capacity_is_for_two_steps_of_rows_and_every_sequences_look_back() -> None:
    assert required_capacity(1, 4, 64) == 0
    assert required_capacity(2, 4, 64) == 136
    assert required_capacity(4, 4, 64) == 408

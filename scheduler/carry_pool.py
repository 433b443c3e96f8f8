"""Slots for hidden vectors on their way from loop l to loop l+1.

A row of loop l+1 reads ``H[l][i - offset]``, which an earlier step computed. Between the two steps the vector lives in
a slot. Slot 0 is the zero vector that position -1 stands for.
"""

from scheduler.errors import InvariantError

ZERO_SLOT = 0
NO_SLOT = -1


class CarryPool:
    """Free list over slots 1 … `capacity`; the tensor they index is the runner's."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.free = list(range(capacity, 0, -1))

    def allocate(self, count: int) -> list[int]:
        """Take `count` slots.

        Raises:
            InvariantError: if there are too few, which `required_capacity` rules out.
        """
        if count > len(self.free):
            raise InvariantError(f"carry pool of {self.capacity} slots can't give {count}")
        cut = len(self.free) - count
        slots = self.free[cut:]
        del self.free[cut:]
        return slots

    def release(self, slots: list[int]) -> None:
        """Give slots back."""
        self.free.extend(slots)


def required_capacity(num_loops: int, max_num_seqs: int, max_rows: int) -> int:
    """Slots that always suffice.

    Later loops' rows are planned before loop 0's, so at most one step's rows per loop are on their way, plus one
    look-back vector per sequence and loop; twice that, since outputs take slots before inputs give theirs back.
    """
    return 2 * (num_loops - 1) * (max_rows + max_num_seqs)

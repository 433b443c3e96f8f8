"""Where each loop of a sequence starts, and from which position on what it computes is exact.

Where every loop keeps its own keys over the whole context, each starts at position 0 and everything is exact. What
follows is about the other kind of cache, windows.

Loop 0's keys and values never depend on later loops, and a later loop sees its own past only through W tokens per
layer. With L layers its output at position i depends on its inputs at ``[i - W·L, i]``, and its keys and values (which
the last layer does not touch) on ``[i - W·(L-1), i]``. So a later loop may start at the prompt's tail, and what it
computes before its look-back is filled is never read by a row that matters, and never cached.
"""

from dataclasses import dataclass
from enum import Enum


class LoopCache(Enum):
    """Whose keys and values a later loop reads."""

    WINDOW = "window"
    """Loop 0's over the whole context and its own over a window, mixed by a gate (PLT, iquestloopcoder)."""

    OWN = "own"
    """Its own over the whole context and nothing else: no window, no gate (Nanbeige, Ouro)."""


@dataclass(frozen=True, slots=True)
class LoopLayout:
    """The scheduler's view of a looped model.

    Attributes:
        num_loops: R, how often the layers are applied.
        offset: loop l reads ``H[l-1][i - offset]``; 1 for PLT, 0 for plain looped models.
        window: W, tokens to the left that a later loop sees of itself; means nothing without windows.
        num_layers: L.
        block_size: positions per cache block.
        cache: whose keys a later loop reads.
    """

    num_loops: int
    offset: int
    window: int
    num_layers: int
    block_size: int
    cache: LoopCache = LoopCache.WINDOW

    @property
    def has_windows(self) -> bool:
        """Whether later loops keep a window of keys each, and not their whole context."""
        return self.cache is LoopCache.WINDOW

    @property
    def num_windows(self) -> int:
        """Windows of a sequence."""
        return self.num_loops - 1 if self.has_windows else 0

    @property
    def decodes_in_one_pass(self) -> bool:
        """Whether all loops of a new token are ready together, and not each after the one before it."""
        return self.num_loops > 1 and self.offset > 0

    @property
    def look_back(self) -> int:
        """Positions that a later loop's output depends on, beside its own."""
        return self.window * self.num_layers

    def tail_starts(self, length: int) -> tuple[int, ...]:
        """First position each loop must compute so that the last position's logits are exact.

        Also makes every loop's window and carry at ``length`` exact, which is what decoding goes on from.
        """
        starts = [0] * self.num_loops
        if not self.has_windows:
            return tuple(starts)
        needed_from = length - 1
        for loop in range(self.num_loops - 1, 0, -1):
            starts[loop] = max(0, needed_from - self.look_back)
            needed_from = starts[loop] - self.offset
        return tuple(starts)

    @property
    def kept_window(self) -> int:
        """Positions before the next whose blocks are kept: beside the newest one's block is the H to go on from."""
        return max(self.window, 1)

    def kept_from(self, position: int) -> int:
        """First position whose keys a later loop that goes on at `position` needs, beside the H to go on from."""
        return max(0, position - self.kept_window) if self.has_windows else 0

    def window_blocks(self, rows: int) -> int:
        """Most blocks one window holds while `rows` new positions are written to it."""
        return (self.kept_window + rows + self.block_size - 2) // self.block_size + 1

    def blocks_for(self, length: int, max_rows: int) -> int:
        """Most blocks a sequence of `length` tokens holds at any moment, computed at most `max_rows` rows at a time."""
        context = (length + self.block_size - 1) // self.block_size
        if not self.has_windows:
            return self.num_loops * context
        return context + (self.num_loops - 1) * self.window_blocks(min(length, max_rows))


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How a sequence of known tokens is begun.

    Attributes:
        starts: first position that each loop computes.
        shared_hit: positions whose K/V of loop 0 is in the cache already; its rows below it don't write.
        restored: the boundary at which later loops' keys and carries are restored, or None.
        kv_exact_from: per loop, first position whose K/V equals that of a full computation.
        hidden_exact_from: per loop, first position whose H does.
        num_rows: rows left to compute.
    """

    starts: tuple[int, ...]
    shared_hit: int
    restored: int | None
    kv_exact_from: tuple[int, ...]
    hidden_exact_from: tuple[int, ...]
    num_rows: int

    def restores_loop(self, loop: int) -> bool:
        """Whether loop ≥ 1 goes on from restored keys (else it starts with none)."""
        return self.restored is not None and self.starts[loop] == self.restored

    def window_floor(self, loop: int) -> int:
        """First position of loop ≥ 1 whose window K/V may be read."""
        return 0 if self.restores_loop(loop) else self.starts[loop]


def plan_every_position(layout: LoopLayout, length: int) -> StartPlan:
    """All loops over all positions: what prompt logprobs need."""
    return _plan(layout, length, (0,) * layout.num_loops, 0, None)


def plan_recompute(layout: LoopLayout, length: int, shared_hit: int) -> StartPlan:
    """Later loops from the tail start; loop 0 from the hit, or earlier where a later loop needs its H.

    Args:
        shared_hit: positions of loop 0 found in the cache, 0 for a cold start. Below `length`.
    """
    starts = layout.tail_starts(length)
    first = shared_hit
    if layout.num_loops > 1:
        first = min(first, max(0, starts[1] - layout.offset))
    return _plan(layout, length, (first, *starts[1:]), shared_hit, None)


def plan_restore(layout: LoopLayout, length: int, boundary: int) -> StartPlan:
    """Every loop goes on from `boundary`, or from its tail start where that is later."""
    starts = tuple(max(boundary, start) for start in layout.tail_starts(length))
    return _plan(layout, length, starts, boundary, boundary)


def _plan(
    layout: LoopLayout, length: int, starts: tuple[int, ...], shared_hit: int, restored: int | None
) -> StartPlan:
    kv_exact, hidden_exact = [starts[0]], [starts[0]]
    for loop in range(1, layout.num_loops):
        start = starts[loop]
        if start == 0 or start == restored:
            kv_exact.append(start)
            hidden_exact.append(start)
            continue
        input_exact = max(start, hidden_exact[loop - 1] + layout.offset)
        kv_exact.append(input_exact + layout.window * (layout.num_layers - 1))
        hidden_exact.append(input_exact + layout.look_back)
    return StartPlan(
        starts=starts,
        shared_hit=shared_hit,
        restored=restored,
        kv_exact_from=tuple(kv_exact),
        hidden_exact_from=tuple(hidden_exact),
        num_rows=sum(length - start for start in starts),
    )

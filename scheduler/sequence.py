"""A sequence: one running answer, its tokens, its progress per loop and what it holds."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from scheduler.carry_pool import ZERO_SLOT
from scheduler.loop_layout import LoopLayout, StartPlan


class SequenceState(Enum):
    """WAITING → RUNNING → FINISHED, and RUNNING → WAITING when preempted."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class BlockTable:
    """Consecutive blocks of one loop.

    Attributes:
        first: block index (position // block size) of ``blocks[0]``; grows as a window moves on.
        blocks: block ids.
        registered: block index up to which blocks were offered to the prefix cache.
    """

    first: int = 0
    blocks: list[int] = field(default_factory=list)
    registered: int = 0

    @property
    def stop(self) -> int:
        """Block index after the last block held."""
        return self.first + len(self.blocks)

    def block_at(self, index: int) -> int:
        """Id of the block with this block index."""
        return self.blocks[index - self.first]


@dataclass(slots=True)
class Carry:
    """Slots of consecutive H vectors of one loop that the next loop has yet to read (or may look back at).

    Attributes:
        first: position of ``slots[0]``.
    """

    first: int = 0
    slots: deque[int] = field(default_factory=deque)

    def slot_at(self, position: int) -> int:
        """Slot of ``H[position]``; the zero slot for position -1."""
        return ZERO_SLOT if position < 0 else self.slots[position - self.first]


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer being generated.

    Attributes:
        tokens: prompt and generated tokens; preemption keeps them.
        layout: the model's, with as many loops as this sequence is to have.
        tenant: shares cached blocks with nobody else, whatever the salts.
        every_position: all loops must compute all positions (prompt logprobs still owed).
        every_loop: no token may be sampled before all loops have computed the newest position (loop logprobs).
        rank: (arrival step + priority share, arrival number); lower goes first.
        plan: how the current run was begun; None while waiting.
        next: per loop, the next position to compute.
        tables: per loop, the blocks held.
        carries: per loop but the last, H vectors on their way to the next loop.
        keys: content keys of the full blocks of `tokens`.
    """

    sequence_id: str
    tokens: list[int]
    num_prompt_tokens: int
    layout: LoopLayout
    tenant: str = ""
    cache_salt: str = ""
    priority: int = 0
    every_position: bool = False
    every_loop: bool = False
    state: SequenceState = SequenceState.WAITING
    rank: tuple[int, int] = (0, 0)
    num_preemptions: int = 0
    cached_tokens: int = 0
    plan: StartPlan | None = None
    next: list[int] = field(default_factory=list)
    tables: list[BlockTable] = field(default_factory=list)
    carries: list[Carry] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether loop 0 has at most the newest token left."""
        return len(self.tokens) - self.next[0] <= 1

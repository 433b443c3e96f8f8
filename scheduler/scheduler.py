"""Continuous batching: which sequences run, and which of their rows go into the next step."""

from bisect import insort
from dataclasses import dataclass
from typing import Literal

from scheduler.block_pool import BlockPool
from scheduler.carry_pool import CarryPool, required_capacity
from scheduler.errors import InvariantError
from scheduler.loop_layout import LoopLayout
from scheduler.policy import Span, parallel_spans, sequential_spans
from scheduler.sequence import Sequence, SequenceState
from scheduler.sequence_cache import SequenceCache
from scheduler.step_plan import RowSegment, StepPlan

PRIORITY_STEPS = 4096
"""One level of priority is worth having arrived this many steps earlier, so nobody is overtaken for ever."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of a step.

    Attributes:
        max_num_seqs: most sequences running at once.
        max_rows: most rows of a pass; at least R per running sequence.
    """

    max_num_seqs: int
    max_rows: int
    execution: Literal["parallel", "sequential"] = "parallel"
    prefix_caching: bool = True


@dataclass(slots=True)
class SchedulerTotals:
    """Running totals; they only grow."""

    steps: int = 0
    preemptions: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0


class Scheduler:
    """The state machine of all sequences.

    Every step: `schedule`, then the pass, then `commit`. `add`, `abort` and `finish` may come at any moment between
    steps. Whatever the reason, a sequence gives its blocks back through `SequenceCache.release` and nowhere else.
    """

    def __init__(self, layout: LoopLayout, limits: SchedulerLimits, num_blocks: int) -> None:
        if limits.max_rows < limits.max_num_seqs * layout.num_loops:
            raise ValueError(
                f"max_rows ({limits.max_rows}) must be at least max_num_seqs × num_loops "
                f"({limits.max_num_seqs} × {layout.num_loops}), so that every running sequence can decode"
            )
        self.layout = layout
        self.limits = limits
        self.blocks = BlockPool(num_blocks)
        self.carries = CarryPool(required_capacity(layout.num_loops, limits.max_num_seqs, limits.max_rows))
        self.cache = SequenceCache(self.blocks, self.carries, limits.prefix_caching)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.totals = SchedulerTotals()
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def max_sequence_len(self, wanted: int) -> int:
        """Most tokens, up to `wanted`, of a sequence that fits the pool when it is alone; 0 if none does."""
        low, high = 0, wanted
        while low < high:
            middle = (low + high + 1) // 2
            if self.layout.blocks_for(middle, self.limits.max_rows) <= self.blocks.num_blocks:
                low = middle
            else:
                high = middle - 1
        return low

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence, of at most as many loops as the model has. It must fit: see `max_sequence_len`."""
        sequence.rank = (self.totals.steps + sequence.priority * PRIORITY_STEPS, self._arrivals)
        self._arrivals += 1
        insort(self.waiting, sequence, key=_rank)

    def finish(self, sequence: Sequence) -> None:
        """End a sequence, whatever its state and the reason; a second call does nothing."""
        if sequence.state is SequenceState.FINISHED:
            return
        (self.running if sequence.state is SequenceState.RUNNING else self.waiting).remove(sequence)
        sequence.state = SequenceState.FINISHED
        self.cache.release(sequence)

    def schedule(self) -> StepPlan:
        """Choose the rows of the next pass.

        Decoding sequences first, then later loops of prompts, then loop 0 of prompts, then new sequences; within
        each, by rank. A sequence for which no block is left makes the last-ranked one go back to the queue.
        """
        step = StepPlan()
        spans: dict[Sequence, list[Span]] = {}
        budget = self._plan_ready_rows(spans, step)
        budget = self._plan_prompt_rows(spans, budget)
        self._admit(spans, budget, step)
        for sequence in self.running:
            for loop, start, stop in spans.get(sequence, ()):
                inputs, outputs = self.cache.take_slots(sequence, loop, start, stop)
                step.segments.append(RowSegment(sequence, loop, start, stop, inputs, outputs))
        return step

    def commit(self, step: StepPlan, new_tokens: dict[Sequence, int]) -> None:
        """Book a computed pass: rows are done, `new_tokens` are appended.

        Args:
            new_tokens: the sampled token of each sequence whose newest position reached the last loop.
        """
        self.totals.steps += 1
        for segment in step.segments:
            segment.sequence.next[segment.loop] = segment.stop
        for sequence in {segment.sequence: None for segment in step.segments}:
            self.cache.advance(sequence)
            if sequence in new_tokens:
                sequence.tokens.append(new_tokens[sequence])

    def _plan_ready_rows(self, spans: dict[Sequence, list[Span]], step: StepPlan) -> int:
        """Rows that finish what was begun: decode, and later loops of prompts. Returns the budget left."""
        budget = self.limits.max_rows
        for sequence in sorted(self.running, key=lambda s: not s.is_decoding):
            if sequence.state is not SequenceState.RUNNING:
                continue  # preempted for an earlier one
            wanted = self._ready_spans(sequence, budget)
            if self._make_room(sequence, wanted, spans, step):
                spans[sequence] = wanted
            budget = self.limits.max_rows - _num_rows(spans)
        return budget

    def _plan_prompt_rows(self, spans: dict[Sequence, list[Span]], budget: int) -> int:
        """Give loop 0 of prompts the rest of the budget."""
        for sequence in self.running:
            budget -= _extend_lead(sequence, spans.get(sequence, []), budget)
        return budget

    def _admit(self, spans: dict[Sequence, list[Span]], budget: int, step: StepPlan) -> None:
        """Start waiting sequences in rank order; the head of the queue is never passed by."""
        while (
            self.waiting
            and budget > 0
            and not step.preempted
            and len(self.running) < self.limits.max_num_seqs
        ):
            sequence = self.waiting[0]
            reserve = sum(other.layout.num_loops for other in self.running)
            restores = self.cache.begin(sequence, self.limits.max_rows, reserve)
            if restores is None:
                return
            del self.waiting[0]
            sequence.state = SequenceState.RUNNING
            insort(self.running, sequence, key=_rank)
            self._count_hit(sequence)
            step.restores += restores
            step.admitted.append(sequence)
            spans[sequence] = self._ready_spans(sequence, budget)
            for loop, _, stop in spans[sequence]:
                if not self.cache.grow(sequence, loop, stop):
                    raise InvariantError("a sequence was admitted without room for its first rows")
            _extend_lead(sequence, spans[sequence], budget - _num_rows({sequence: spans[sequence]}))
            budget -= _num_rows({sequence: spans[sequence]})

    def _ready_spans(self, sequence: Sequence, budget: int) -> list[Span]:
        choose = parallel_spans if self.limits.execution == "parallel" else sequential_spans
        return choose(sequence, budget)

    def _make_room(
        self, sequence: Sequence, wanted: list[Span], spans: dict[Sequence, list[Span]], step: StepPlan
    ) -> bool:
        """Grow the sequence's tables, at the cost of the last-ranked; False if that is the sequence itself."""
        for loop, _, stop in wanted:
            while not self.cache.grow(sequence, loop, stop):
                victim = self.running[-1]
                self._preempt(victim)
                spans.pop(victim, None)
                step.preempted.append(victim)
                if victim is sequence:
                    return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.release(sequence)
        sequence.state = SequenceState.WAITING
        sequence.num_preemptions += 1
        self.totals.preemptions += 1
        insort(self.waiting, sequence, key=_rank)

    def _count_hit(self, sequence: Sequence) -> None:
        """Count what the prefix cache gave; a preempted sequence finding its own blocks again is no merit."""
        assert sequence.plan is not None
        if sequence.num_preemptions == 0 and self.limits.prefix_caching:
            sequence.cached_tokens = sequence.plan.shared_hit
            self.totals.prefix_query_tokens += len(sequence)
            self.totals.prefix_hit_tokens += sequence.plan.shared_hit


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def _num_rows(spans: dict[Sequence, list[Span]]) -> int:
    return sum(stop - start for planned in spans.values() for _, start, stop in planned)


def _extend_lead(sequence: Sequence, planned: list[Span], budget: int) -> int:
    """Lengthen the planned span of loop 0 in place, if there is one; returns the rows added."""
    if not planned or planned[0][0] != 0:
        return 0
    _, start, stop = planned[0]
    more = min(budget, len(sequence) - stop)
    planned[0] = (0, start, stop + more)
    return more

"""Which rows of one sequence may be in the next step: the three rules of readiness, as code.

A span is ``(loop, start, stop)``: consecutive positions of one loop of the sequence at hand.
"""

from scheduler.sequence import Sequence

Span = tuple[int, int, int]


def parallel_spans(sequence: Sequence, budget: int) -> list[Span]:
    """Every loop's ready rows, and at most one row of loop 0 (the caller gives a prompt more if budget is left).

    Later loops go first, deepest first: they free carry slots, loop 0 takes them.

    Args:
        budget: most rows to return.
    """
    length, leading, last = len(sequence), sequence.next[0], sequence.layout.num_loops - 1
    spans: list[Span] = []
    lead = 1 if leading < length and budget > 0 else 0
    left = budget - lead
    for loop in range(last, 0, -1):
        start = sequence.next[loop]
        stop = min(start + left, ready_stop(sequence, loop, leading + lead))
        if sequence.every_loop and loop == last and stop == length:
            stop -= not _middle_fits(sequence, leading + lead, left - (stop - start))
        if stop > start:
            spans.append((loop, start, stop))
            left -= stop - start
    if lead:
        spans.append((0, leading, leading + 1))
    return spans[::-1]


def sequential_spans(sequence: Sequence, budget: int) -> list[Span]:
    """The baseline: one loop of the sequence, the deepest that is ready, in lock-step with the loop before it."""
    for loop in range(sequence.layout.num_loops - 1, 0, -1):
        start = sequence.next[loop]
        stop = min(start + budget, ready_stop(sequence, loop, sequence.next[0]), sequence.next[loop - 1])
        if stop > start:
            return [(loop, start, stop)]
    if sequence.next[0] < len(sequence) and budget > 0:
        return [(0, sequence.next[0], sequence.next[0] + 1)]
    return []


def _middle_fits(sequence: Sequence, leading: int, budget: int) -> bool:
    """Whether the loops between the first and the last can all reach the newest position with so many rows."""
    middle = range(1, sequence.layout.num_loops - 1)
    ready = all(ready_stop(sequence, loop, leading) == len(sequence) for loop in middle)
    return ready and sum(len(sequence) - sequence.next[loop] for loop in middle) <= budget


def ready_stop(sequence: Sequence, loop: int, leading: int) -> int:
    """First position of loop ≥ 1 that is not ready.

    Args:
        leading: positions of loop 0 that are done, or will be in this step (rule 3).
    """
    computed_earlier = sequence.next[loop - 1] + sequence.layout.offset  # rule 2
    return min(len(sequence), computed_earlier, leading)

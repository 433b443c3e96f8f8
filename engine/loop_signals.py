"""What the later loops do to a sample of the tokens, for whoever asks whether they are worth their time.

A sample is a decode pass: one row per loop and sequence, at its newest position. Loop l's row there is compared with
loop l - 1's at the same position, which ran in the same pass or, with an offset of 0, in an earlier one that left its
H in the carry slot from which loop l began. So nothing is kept for it from one pass to the next. Where the row before
is in another pass and its H went to another position (an offset of 1 and one loop after another) nothing is sampled.
Which passes are sampled is a matter of counting; there is no clock and no chance in it.

A tap gives the states. Only the logits of the earlier loops are extra work; they are a product of their own, so no
request's logits are computed beside other rows than without the sample.
"""

import logging
from dataclasses import dataclass

import torch

from engine.isolation import is_fatal
from engine.loop_arithmetic import best_tokens, relative_changes
from engine.messages import LoopSignals
from engine.model import LoopedModel
from engine.runner import ModelRunner
from engine.sampler import SCORED_ROWS, to_host
from engine.tap import LoopTap
from scheduler.step_plan import RowSegment, StepPlan

logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""In a row, after which nothing is sampled any more: what always fails would only fill the log."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What two neighbouring loops make of the same position of the same sequence.

    Attributes:
        before: the earlier loop's row of the pass; with an offset of 0 the carry slot that holds its H.
        row: the later loop's row of the pass.
        loop: the later one.
    """

    before: int
    row: int
    loop: int


@dataclass(frozen=True, slots=True)
class Compared:
    """All pairs of a pass.

    Attributes:
        before, after: H of the earlier and the later loop, ``[pairs, hidden]``.
        tokens: most probable token of both, ``[2, pairs]``.
        usable: whether there are such, ``[pairs]``.
    """

    before: torch.Tensor
    after: torch.Tensor
    tokens: torch.Tensor
    usable: torch.Tensor


class SignalSampler:
    """Chooses passes, and adds up what a tap saw of them.

    Attributes:
        totals: so far.
    """

    def __init__(self, model: LoopedModel, carries: torch.Tensor, every: int) -> None:
        """Sample every so many decode passes.

        Args:
            carries: those that the model's passes use.
        """
        self._model = model
        self._carries = carries
        self._every = every
        self._passes = 0
        self._failures = 0
        loops = model.config.loops.num_loops
        self.totals = LoopSignals(
            tokens=[0] * loops,
            gates=[0.0] * loops if model.config.loops.has_gates else [],
            changes=[0.0] * loops,
            token_changes=[0] * loops,
        )

    @classmethod
    def of(cls, runner: ModelRunner, fraction: float) -> "SignalSampler | None":
        """Sample a fraction of the decode passes; None if there is nothing to sample, or it is 0.

        A model that is split over ranks isn't sampled: one rank sees the gates of its own heads, and the head's product
        is one that all ranks must join in.
        """
        if fraction == 0 or runner.model.config.loops.num_loops == 1:
            return None
        if not runner.followers.is_empty:
            logger.info("no loop metrics: they are not sampled of a model that is split over ranks")
            return None
        return cls(runner.model, runner.state.carries, round(1 / fraction))

    def tap_for(self, plan: StepPlan) -> LoopTap | None:
        """The tap to run a plan with, if its turn has come."""
        if self._failures >= MOST_FAILURES or not is_comparable(plan):
            return None
        self._passes += 1
        return LoopTap() if self._passes % self._every == 0 else None

    def take(self, plan: StepPlan, tap: LoopTap) -> None:
        """Add what the tap saw of a pass in which nobody failed. What goes wrong here costs the sample, and no request.

        Raises:
            Exception: the engine is broken, see `engine.isolation.is_fatal`.
        """
        if tap.states is None:  # it only worked without the tap, see `run_pass`
            self._failures += 1
            return
        try:
            self._add(pairs_of(plan), tap.layer_gates, *tap.states)
            self._failures = 0
        except BaseException as error:
            if is_fatal(error):
                raise
            self._failures += 1
            logger.warning("a sample of what the loops do failed; no request did", exc_info=error)

    @torch.inference_mode()
    def _add(
        self, pairs: list[Pair], layer_gates: list[torch.Tensor], hidden: torch.Tensor, normed: torch.Tensor
    ) -> None:
        before, rows = (
            torch.tensor([getattr(pair, name) for pair in pairs], device=hidden.device)
            for name in ("before", "row")
        )
        if self._model.config.loops.offset:
            compared = self._in_one_pass(before, rows, hidden, normed)
        else:
            compared = self._with_carries(before, rows, hidden, normed)
        change = relative_changes(compared.before, compared.after)
        gates = torch.zeros_like(change)
        if layer_gates:
            gates = torch.stack([gates[rows] for gates in layer_gates]).double().mean(dim=(0, 2))
        usable = compared.usable & change.isfinite() & gates.isfinite()
        found = to_host([usable, gates, change, compared.tokens[0] != compared.tokens[1]])
        before_it = self.totals
        totals = LoopSignals(  # a new one: the old one may be on its way to another thread
            tokens=[*before_it.tokens],
            gates=[*before_it.gates],
            changes=[*before_it.changes],
            token_changes=[*before_it.token_changes],
        )
        for pair, is_usable, gate, by, differs in zip(pairs, *(part.tolist() for part in found), strict=True):
            if is_usable:  # a broken row would spoil the sums for good
                totals.tokens[pair.loop] += 1
                if totals.gates:
                    totals.gates[pair.loop] += gate
                totals.changes[pair.loop] += by
                totals.token_changes[pair.loop] += differs
        self.totals = totals

    def _in_one_pass(
        self, before: torch.Tensor, rows: torch.Tensor, hidden: torch.Tensor, normed: torch.Tensor
    ) -> Compared:
        best, is_number = self._best(normed)
        return Compared(
            hidden[before],
            hidden[rows],
            torch.stack([best[before], best[rows]]),
            is_number[before] & is_number[rows],
        )

    def _with_carries(
        self, slots: torch.Tensor, rows: torch.Tensor, hidden: torch.Tensor, normed: torch.Tensor
    ) -> Compared:
        """The slots that a pass read hold what they held: no row of it wrote there, and they are given back later."""
        model, earlier = self._model, self._carries[slots]
        earlier_normed = earlier
        if not model.config.loops.normalize_per_loop:
            earlier_normed = model.kernels.rms_norm(earlier, model.weights.norm, model.config.rms_norm_eps)
        best, is_number = self._best(torch.cat([earlier_normed, normed[rows]]))
        return Compared(earlier, hidden[rows], best.view(2, -1), is_number.view(2, -1).all(dim=0))

    def _best(self, normed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Per row, the most probable token, and whether there is one."""
        tops = [best_tokens(self._model.logits(part)) for part in normed.split(SCORED_ROWS)]
        return torch.cat([best for best, _ in tops]), torch.cat([is_number for _, is_number in tops])


def is_comparable(plan: StepPlan) -> bool:
    """Whether a plan is a decode pass, and some sequence's newest position can be compared with the loop before."""
    if plan.admitted or plan.restores:
        return False
    previous, found = None, False
    for segment in plan.segments:
        if segment.stop - segment.start != 1 or segment.stop != len(segment.sequence):
            return False
        found = found or _follows(segment, previous)
        previous = segment
    return found


def pairs_of(plan: StepPlan) -> list[Pair]:
    """All pairs of a decode pass, whose row n is its n-th segment."""
    segments = plan.segments
    return [
        Pair(row - 1 if segment.sequence.layout.offset else segment.input_slots[0], row, segment.loop)
        for row, segment in enumerate(segments)
        if _follows(segment, segments[row - 1] if row else None)
    ]


def _follows(segment: RowSegment, previous: RowSegment | None) -> bool:
    """Whether the loop before a row's has left what it made of the same position: a carry, or the row before."""
    if segment.sequence.layout.offset == 0:
        return segment.loop > 0
    return (
        previous is not None and segment.sequence is previous.sequence and segment.loop == previous.loop + 1
    )

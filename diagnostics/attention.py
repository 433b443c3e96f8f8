"""Attention weights of a few positions, computed again from queries and cached keys while a pass goes by."""

from dataclasses import dataclass

import torch

from diagnostics.metrics import Sums
from diagnostics.states import effective_rank
from engine.tap import KeyReader
from scheduler.sequence import BlockTable, Sequence
from scheduler.step_plan import RowSegment

LEAST_GATE = 1e-30
"""A gate of 0 would make a position's weight exactly 0, and a divergence from it infinite."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Log-weights of one query per head over positions 0 … i, float64 ``[heads, i + 1]``.

    Attributes:
        context: over the whole context.
        window: over the loop's own window, -inf outside; None where a loop has none.
        mixed: what the row attends with: a position's weight in both, mixed by the gate.
    """

    context: torch.Tensor
    window: torch.Tensor | None
    mixed: torch.Tensor


class AttentionProbe:
    """Looks at the sampled positions of one document in every loop and layer.

    A loop's weights are compared with the loop before's at the same position, which no pass computes later; so only the
    newest of each layer and position are kept.
    """

    def __init__(self, sums: Sums, sequence: Sequence, positions: list[int], window: int) -> None:
        """Start with a document.

        Args:
            sums: takes what is found.
            positions: to look at.
            window: W of the model's loops.
        """
        self._sums = sums
        self._sequence = sequence
        self._positions = positions
        self._window = window
        self._before: dict[tuple[int, int], torch.Tensor] = {}

    def look(
        self,
        layer: int,
        segment: RowSegment,
        queries: torch.Tensor,
        gates: torch.Tensor | None,
        read_keys: KeyReader,
    ) -> None:
        """Take a layer's rows of one segment.

        Args:
            queries: ``[rows, heads, head_dim]``.
            gates: ``[rows, heads]``; None where the segment's loop mixes nothing.
        """
        for position in self._positions:
            if segment.start <= position < segment.stop:
                row = position - segment.start
                gate = None if gates is None else gates[row]
                self._add(
                    segment.loop + 1,
                    layer,
                    position,
                    self._weights(segment.loop, position, queries[row], gate, read_keys),
                )

    def _weights(
        self, loop: int, position: int, query: torch.Tensor, gate: torch.Tensor | None, read_keys: KeyReader
    ) -> Weights:
        """A loop that mixes reads loop 0's keys and its own window; any other its own keys only."""
        tables, wide = self._sequence.tables, query.float()
        own = tables[loop]
        context = _log_weights(
            wide, self._keys(tables[0] if gate is not None else own, 0, position, read_keys)
        )
        if gate is None:
            return Weights(context, None, context)
        assert self._sequence.plan is not None
        first = max(0, self._sequence.plan.window_floor(loop), position - self._window)
        window = torch.full_like(context, -torch.inf)
        window[:, first:] = _log_weights(wide, self._keys(own, first, position, read_keys))
        share = gate.double().clamp(min=LEAST_GATE).unsqueeze(1)
        mixed = torch.logaddexp(context + share.log(), window + (1 - share).log())
        return Weights(context, window, mixed)

    def _keys(self, table: BlockTable, first: int, last: int, read_keys: KeyReader) -> torch.Tensor:
        """Keys at positions ``first … last``: float32 ``[kv_heads, keys, head_dim]``."""
        size = self._sequence.layout.block_size
        blocks = [table.block_at(index) for index in range(first // size, last // size + 1)]
        return read_keys(blocks)[:, first % size : first % size + last - first + 1]

    def _add(self, loop: int, layer: int, position: int, weights: Weights) -> None:
        sums, mixed = self._sums, weights.mixed.exp()
        heads = len(mixed)
        sums.add("attention_entropy", loop, float(torch.special.entr(mixed).sum()), heads)
        sums.add("context_entropy", loop, float(torch.special.entr(weights.context.exp()).sum()), heads)
        if weights.window is not None:
            sums.add("window_entropy", loop, float(torch.special.entr(weights.window.exp()).sum()), heads)
        sums.add("head_rank", loop, float(effective_rank(mixed)), 1)
        if heads > 1:
            sums.add("head_cosine", loop, float(mean_cosine(mixed)), 1)
        before = self._before.get((layer, position))
        if before is not None:
            ratio = torch.where(mixed > 0, weights.mixed - before, 0.0)
            sums.add("attention_kl", loop, float((mixed * ratio).sum()), heads)
        self._before[layer, position] = weights.mixed


def mean_cosine(rows: torch.Tensor) -> torch.Tensor:
    """Mean cosine of all pairs of two or more rows, none of them zero: a scalar."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    count = len(rows)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1))


def sampled_positions(length: int, most: int) -> list[int]:
    """The middles of so many equal parts of a document, or all positions of a short one."""
    return sorted({(2 * part + 1) * length // (2 * most) for part in range(most)})


def _log_weights(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """float64 ``[heads, keys]`` of a query ``[heads, head_dim]``; heads of a group share a KV head's keys."""
    grouped = keys.repeat_interleave(len(query) // len(keys), dim=0)
    scores = torch.einsum("hd,hkd->hk", query, grouped) * query.shape[1] ** -0.5
    return scores.double().log_softmax(dim=1)

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
    """Log-weights of some queries, float64 ``[queries, heads, keys]``, -inf where a query at position i doesn't look.

    Attributes:
        context: over the whole context, 0 … i.
        window: over the loop's own window; None where a loop has none.
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
            positions: to look at, ascending.
            window: W of the model's loops.
        """
        self._sums = sums
        self._sequence = sequence
        self._positions = positions
        self._window = window
        self._before: dict[int, torch.Tensor] = {}

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
        chosen = [
            index
            for index, position in enumerate(self._positions)
            if segment.start <= position < segment.stop
        ]
        if not chosen:
            return
        positions = torch.tensor([self._positions[index] for index in chosen], device=queries.device)
        rows = positions - segment.start
        weights = self._weights(
            segment.loop, positions, queries[rows], None if gates is None else gates[rows], read_keys
        )
        self._add(segment.loop + 1, weights)
        self._compare(segment.loop + 1, layer, slice(chosen[0], chosen[-1] + 1), weights.mixed)

    def _weights(
        self,
        loop: int,
        positions: torch.Tensor,
        queries: torch.Tensor,
        gates: torch.Tensor | None,
        read_keys: KeyReader,
    ) -> Weights:
        """A loop that mixes reads loop 0's keys and its own window; any other its own keys only."""
        tables, last = self._sequence.tables, int(positions[-1])
        places = torch.arange(last + 1, device=positions.device)
        seen = places <= positions[:, None]
        own = tables[loop]
        context = _log_weights(
            queries, self._keys(tables[0] if gates is not None else own, 0, last, read_keys), seen
        )
        if gates is None:
            return Weights(context, None, context)
        assert self._sequence.plan is not None
        floor = self._sequence.plan.window_floor(loop)
        first = max(0, floor, int(positions[0]) - self._window)
        near = seen & (places >= (positions - self._window).clamp(min=floor)[:, None])
        window = torch.full_like(context, -torch.inf)
        window[:, :, first:] = _log_weights(queries, self._keys(own, first, last, read_keys), near[:, first:])
        share = gates.double().clamp(min=LEAST_GATE).unsqueeze(2)
        mixed = torch.logaddexp(context + share.log(), window + (1 - share).log())
        return Weights(context, window, mixed)

    def _keys(self, table: BlockTable, first: int, last: int, read_keys: KeyReader) -> torch.Tensor:
        """Keys at positions ``first … last``: float32 ``[kv_heads, keys, head_dim]``."""
        size = self._sequence.layout.block_size
        blocks = [table.block_at(index) for index in range(first // size, last // size + 1)]
        return read_keys(blocks)[:, first % size : first % size + last - first + 1]

    def _add(self, loop: int, weights: Weights) -> None:
        sums, mixed = self._sums, weights.mixed.exp()
        queries, heads, _ = mixed.shape
        sums.add("attention_entropy", loop, _entropy(mixed), queries * heads)
        sums.add("context_entropy", loop, _entropy(weights.context.exp()), queries * heads)
        if weights.window is not None:
            sums.add("window_entropy", loop, _entropy(weights.window.exp()), queries * heads)
        sums.add("head_rank", loop, float(effective_rank(mixed).sum()), queries)
        if heads > 1:
            sums.add("head_cosine", loop, float(mean_cosine(mixed).sum()), queries)

    def _compare(self, loop: int, layer: int, chosen: slice, mixed: torch.Tensor) -> None:
        """Compare with the loop before, and be what the next loop is compared with."""
        queries, heads, keys = mixed.shape
        if layer not in self._before:
            shape = len(self._positions), heads, self._positions[-1] + 1
            self._before[layer] = mixed.new_full(shape, -torch.inf)
        before = self._before[layer][chosen, :, :keys]
        if loop > 1:
            ratio = torch.where(mixed > -torch.inf, mixed - before, 0.0)
            self._sums.add("attention_kl", loop, float((mixed.exp() * ratio).sum()), queries * heads)
        before.copy_(mixed)


def mean_cosine(rows: torch.Tensor) -> torch.Tensor:
    """Mean cosine of all pairs of two or more rows, none of them zero: ``[…]`` of ``[…, rows, n]``."""
    unit = rows / rows.norm(dim=-1, keepdim=True)
    count = rows.shape[-2]
    return ((unit @ unit.mT).sum(dim=(-2, -1)) - count) / (count * (count - 1))


def sampled_positions(length: int, most: int) -> list[int]:
    """The middles of so many equal parts of a document, or all positions of a short one."""
    return sorted({(2 * part + 1) * length // (2 * most) for part in range(most)})


def _entropy(weights: torch.Tensor) -> float:
    """The sum of all entropies."""
    return float(torch.special.entr(weights).sum())


def _log_weights(queries: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """float64 ``[queries, heads, keys]``.

    Args:
        queries: ``[queries, heads, head_dim]``; heads of a group share a KV head's keys.
        keys: float32 ``[kv_heads, keys, head_dim]``.
        seen: bool ``[queries, keys]``.
    """
    count, heads, head_dim = queries.shape
    grouped = queries.float().view(count, len(keys), heads // len(keys), head_dim)
    scores = torch.einsum("qkgd,knd->qkgn", grouped, keys).flatten(1, 2) * head_dim**-0.5
    return scores.double().masked_fill(~seen.unsqueeze(1), -torch.inf).log_softmax(dim=2)

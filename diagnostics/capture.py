"""A document through the engine's own passes, and what is kept of them until all its loops are done."""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field, replace

import torch

from diagnostics.attention import AttentionProbe, sampled_positions
from diagnostics.errors import DiagnosticsError
from diagnostics.metrics import Sums
from engine.loading import LoadedModel
from engine.tap import KeyReader
from scheduler.sequence import Sequence
from scheduler.step_plan import RowSegment


@dataclass(slots=True)
class DocumentStates:
    """Room for the states of one document, used again for the next.

    Attributes:
        embedding: ``[most tokens, hidden]``, h(0).
        raw: the same of each loop, after its last layer.
        normed: the same after the final norm, as the head gets them.
        gates: float64 ``[loops, layers, heads]``, sums over the document's positions; zeros of loops without.
    """

    embedding: torch.Tensor
    raw: list[torch.Tensor]
    normed: list[torch.Tensor]
    gates: torch.Tensor

    @classmethod
    def allocate(cls, model: LoadedModel, most_tokens: int) -> "DocumentStates":
        config, state = model.config, model.runner.state

        def states() -> torch.Tensor:
            return state.carries.new_zeros(most_tokens, config.hidden_size)

        loops = range(config.loops.num_loops)
        shape = (config.loops.num_loops, config.num_layers, config.num_heads)
        gates = torch.zeros(shape, dtype=torch.float64, device=state.carries.device)
        return cls(states(), [states() for _ in loops], [states() for _ in loops], gates)

    def first(self, length: int) -> "DocumentStates":
        """Views of the first positions."""
        return replace(
            self,
            embedding=self.embedding[:length],
            raw=[states[:length] for states in self.raw],
            normed=[states[:length] for states in self.normed],
        )


@dataclass(slots=True)
class DocumentTap:
    """Sees one pass, all of whose rows are one document's, and files them by loop and position.

    Attributes:
        layers: how many times `residual` was called.
        layer_gates: the newest layer's.
    """

    segments: list[RowSegment]
    states: DocumentStates
    probe: AttentionProbe
    num_layers: int
    layers: int = 0
    layer_gates: torch.Tensor | None = field(default=None)

    def residual(self, x: torch.Tensor) -> None:
        """See `Tap`."""
        if self.layers == 0:
            self._file([self.states.embedding], x)
        elif self.layers == self.num_layers:
            self._file(self.states.raw, x)
        self.layers += 1

    def gates(self, gates: torch.Tensor) -> None:
        """See `Tap`."""
        self.layer_gates = gates
        for segment, rows in self._rows():
            if segment.loop > 0:
                self.states.gates[segment.loop, self.layers - 1] += gates[rows].double().sum(dim=0)

    def queries(self, queries: torch.Tensor, read_keys: KeyReader) -> None:
        """See `Tap`."""
        for segment, rows in self._rows():
            mixes = segment.loop > 0 and self.layer_gates is not None
            gates = self.layer_gates[rows] if mixes and self.layer_gates is not None else None
            self.probe.look(self.layers - 1, segment, queries[rows], gates, read_keys)

    def hidden(self, hidden: torch.Tensor, normed: torch.Tensor) -> None:
        """See `Tap`."""
        self._file(self.states.normed, normed)

    def _rows(self) -> list[tuple[RowSegment, slice]]:
        """The segments with their rows of the pass."""
        found, row = [], 0
        for segment in self.segments:
            found.append((segment, slice(row, row + segment.num_rows)))
            row += segment.num_rows
        return found

    def _file(self, by_loop: list[torch.Tensor], values: torch.Tensor) -> None:
        for segment, rows in self._rows():
            if segment.loop < len(by_loop):
                by_loop[segment.loop][segment.start : segment.stop] = values[rows]


class DocumentRunner:
    """Runs documents, one at a time, each through all loops at every position."""

    def __init__(self, model: LoadedModel, most_tokens: int, attention_positions: int) -> None:
        """Allocate what every document needs.

        Args:
            model: with the loops to look at, and room for one sequence of `most_tokens`.
            attention_positions: positions of a document whose attention weights are looked at.
        """
        self.model = model
        self._states = DocumentStates.allocate(model, most_tokens)
        self._attention_positions = attention_positions

    def run(self, tokens: Tokens[int], sums: Sums) -> DocumentStates:
        """Compute a document; its attention goes to `sums`.

        Returns:
            Its states, until the next one is run.
        """
        scheduler, runner = self.model.scheduler, self.model.runner
        # Nothing of it is a prompt whose logprobs are owed: its logits are computed when all loops have their states.
        sequence = Sequence("document", list(tokens), 0, scheduler.layout, every_position=True)
        positions = sampled_positions(len(tokens), self._attention_positions)
        probe = AttentionProbe(sums, sequence, positions, scheduler.layout.window)
        self._states.gates.zero_()
        scheduler.add(sequence)
        try:
            while not _is_done(sequence):
                plan = scheduler.schedule()
                if not plan.segments:
                    raise DiagnosticsError(
                        f"the cache can't hold a document of {len(tokens)} tokens; lower --max-tokens"
                    )
                tap = DocumentTap(plan.segments, self._states, probe, self.model.config.num_layers)
                runner.run(plan, tap)
                scheduler.commit(plan, {})
        finally:
            scheduler.finish(sequence)
        return self._states.first(len(tokens))


def _is_done(sequence: Sequence) -> bool:
    return bool(sequence.next) and min(sequence.next) == len(sequence)

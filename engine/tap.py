"""Where what a pass computes within the model can be looked at: H of every loop, gates and queries of every layer.

`LoopedModel.run_layers` shows it to a `Tap` while it computes; nothing is computed for it, and a pass without one pays
for two comparisons with None per layer. A pass with one is the same work on the same rows, but never a CUDA graph's:
a replay shows nothing.

Of a model that is split over ranks the first rank's runner can have a tap. It sees H and the residual stream as they
are, which every rank holds whole, but the gates of its own heads only.

`loop_logprobs` needs no tap: the rows that it wants are among a batch's `logit_rows`, also of a replayed graph, and the
head's input of all rows is what `run_layers` returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

KeyReader = Callable[[Sequence[int]], torch.Tensor]
"""From ids of cache blocks to a layer's keys in them, see `KernelBackend.read_keys`."""


class Tap(Protocol):
    """Is shown one pass. Row r of every tensor is row r of the pass's `RowBatch`, which says whose it is."""

    def residual(self, x: torch.Tensor) -> None:
        """What goes into each layer, in order, and what comes out of the last, before any norm: ``[rows, hidden]``.

        May be overwritten by what follows.
        """

    def gates(self, gates: torch.Tensor) -> None:
        """Each layer's, in order, if there are several loops: float32 ``[rows, heads]``. Rows of loop 0 use none."""

    def queries(self, queries: torch.Tensor, read_keys: KeyReader) -> None:
        """Each layer's, in order, after its gates: rotated, ``[rows, heads, head_dim]``.

        Args:
            read_keys: reads this layer's cache, which holds the pass's own keys by now; of no use after this call.
        """

    def hidden(self, hidden: torch.Tensor, normed: torch.Tensor) -> None:
        """H as the next loop gets it, and what the head would be given: ``[rows, hidden]`` each, one tensor or two."""


@dataclass(slots=True)
class LoopTap:
    """Keeps gates and H of one pass. Only references to what nothing overwrites, so it can't fail.

    Attributes:
        layer_gates: as `Tap.gates` got them.
        states: as `Tap.hidden` got them; None before.
    """

    layer_gates: list[torch.Tensor] = field(default_factory=list)
    states: tuple[torch.Tensor, torch.Tensor] | None = None

    def residual(self, x: torch.Tensor) -> None:
        """Not kept."""

    def gates(self, gates: torch.Tensor) -> None:
        """See `Tap`."""
        self.layer_gates.append(gates)

    def queries(self, queries: torch.Tensor, read_keys: KeyReader) -> None:
        """Not kept."""

    def hidden(self, hidden: torch.Tensor, normed: torch.Tensor) -> None:
        """See `Tap`."""
        self.states = hidden, normed

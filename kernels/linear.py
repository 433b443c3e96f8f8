"""Matrix products whose rows don't depend on how many rows there are.

Weights are packed once for oneDNN, which streams them at nearly full memory bandwidth for 1 to 8 rows, where a plain
product reads them at half that from 4 rows on; that is what makes a second loop nearly free on a CPU. The packed copy
replaces the plain one.

A library may choose another kernel, and so another order of summation, for small row counts. `smallest_stable_rows`
measures from which row count on results stop changing, and smaller batches are padded to it with zero rows.
"""

import logging

import torch
from torch.nn import functional

logger = logging.getLogger(__name__)

PROBE_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48)
PROBE_REFERENCE_ROWS = 64
MOST_PADDED_ROWS = 16
"""Padding further would cost more than batch invariance is worth."""


class Linear:
    """``y = x · weightᵀ + bias`` in float32.

    Args:
        weight: float32 ``[out_features, in_features]``; the caller should drop it afterwards.
        bias: float32 ``[out_features]`` or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.packed = torch.backends.mkldnn.is_available()
        self.weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None) if self.packed else weight
        )
        self.min_rows = 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply to ``[rows, in_features]``; returns ``[rows, out_features]``."""
        rows = x.shape[0]
        if rows == 0:
            return x.new_empty(0, self.out_features)
        if rows >= self.min_rows:
            return self._product(x)
        return self._product(functional.pad(x, (0, 0, 0, self.min_rows - rows)))[:rows]

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return functional.linear(x, self.weight, self.bias)


def smallest_stable_rows(linear: Linear) -> int:
    """From which row count on each row's result is bit-equal to that in a large batch, by measurement."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PROBE_REFERENCE_ROWS, linear.in_features, generator=generator)
    expected = linear._product(x)
    stable = PROBE_REFERENCE_ROWS
    for rows in reversed(PROBE_ROWS):
        if not torch.equal(linear._product(x[:rows]), expected[:rows]):
            break
        stable = rows
    return stable


def make_batch_invariant(linears: list[Linear]) -> None:
    """Set `min_rows` of all `linears`, measuring each weight shape once."""
    measured: dict[tuple[int, int], int] = {}
    for linear in linears:
        shape = (linear.out_features, linear.in_features)
        if shape not in measured:
            measured[shape] = smallest_stable_rows(linear)
            if measured[shape] > MOST_PADDED_ROWS:
                logger.warning(
                    "products with a %d×%d weight are not batch-invariant on this CPU (rows change up to %d rows): "
                    "greedy tokens may depend on the batch",
                    *shape,
                    measured[shape],
                )
                measured[shape] = 1
        linear.min_rows = measured[shape]

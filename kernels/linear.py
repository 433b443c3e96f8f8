"""Products of rows with weights, `kernels.interface.Linear`.

On the CPU, weights are packed once for oneDNN, which streams them at nearly full memory bandwidth for 1 to 8 rows,
where a plain product reads them at half that from 4 rows on; that is what makes a second loop nearly free on a CPU. The
packed copy replaces the plain one. Each row's result is the same however many rows there are: a library may choose
another kernel, and so another order of summation, for small row counts. `smallest_stable_rows` measures from which row
count on results stop changing, and smaller batches are padded to it with zero rows.

On a GPU the products are the vendor's library's, which gives no such promise.
"""

import logging
from collections.abc import Callable

import torch
from torch.nn import functional

from kernels.interface import Linear

logger = logging.getLogger(__name__)

PROBE_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48)
PROBE_REFERENCE_ROWS = 64
MOST_PADDED_ROWS = 16
"""Padding further would cost more than batch invariance is worth."""


LinearFactory = Callable[[torch.Tensor, torch.Tensor | None], Linear]
"""Makes a product from its weight ``[out_features, in_features]``, which the caller then drops, and bias or None."""


class PlainLinear:
    """The weight as it is, on its device and in its dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


class PackedLinear:
    """float32 on the CPU, packed for oneDNN where torch has it.

    Attributes:
        min_rows: smaller batches are padded to this.
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


class PackedLinears:
    """Makes batch-invariant packed products, measuring each weight shape once."""

    def __init__(self) -> None:
        self.min_rows: dict[tuple[int, int], int] = {}

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
        linear = PackedLinear(weight, bias)
        shape = (linear.out_features, linear.in_features)
        if shape not in self.min_rows:
            self.min_rows[shape] = _affordable_min_rows(linear)
        linear.min_rows = self.min_rows[shape]
        return linear


def smallest_stable_rows(linear: PackedLinear) -> int:
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


def _affordable_min_rows(linear: PackedLinear) -> int:
    measured = smallest_stable_rows(linear)
    if measured <= MOST_PADDED_ROWS:
        return measured
    logger.warning(
        "products with a %d×%d weight are not batch-invariant on this CPU (rows change up to %d rows): "
        "greedy tokens may depend on the batch",
        linear.out_features,
        linear.in_features,
        measured,
    )
    return 1

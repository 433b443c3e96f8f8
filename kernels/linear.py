"""Products of rows with weights, `kernels.interface.Linear`, by the library of the weight's device.

In float32 on the CPU `kernels.panel_linear` takes their place. On a GPU the products are the vendor's library's, which
does not promise that a row's bits don't depend on the number of rows.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from kernels.interface import Linear

LinearFactory = Callable[[torch.Tensor, torch.Tensor | None], Linear]
"""Makes a product from its weight ``[out_features, in_features]``, which the caller then drops, and bias or None."""


class PlainLinear:
    """The weight as it is, on its device and in its dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)

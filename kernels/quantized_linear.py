"""Weight-only quantised products, by torchao: the weight is read in 8 or 4 bits and multiplied in the compute dtype."""

import torch
from torch import nn
from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

INT4_GROUP = 128
"""Weights that share one int4 scale and zero point."""


class QuantizedLinear:
    """One product with a weight of `bits` bits: int8 with a scale per output, int4 with one per group of inputs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, bits: int) -> None:
        out_features, in_features = weight.shape
        module = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
        module.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            module.bias = nn.Parameter(bias, requires_grad=False)
        config = (
            Int8WeightOnlyConfig()
            if bits == 8
            else Int4WeightOnlyConfig(group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d")
        )
        quantize_(module, config)
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.module(x)
        return y


class Int8Linear(QuantizedLinear):
    """Runs on CPUs and GPUs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias, 8)


class Int4Linear(QuantizedLinear):
    """Runs on NVIDIA GPUs, in bfloat16 (tinygemm's packing)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias, 4)

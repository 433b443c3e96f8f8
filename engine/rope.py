"""Rotary position embeddings: tables of cos and sin.

Formulas as in transformers' `modeling_rope_utils`. Sources: RoPE (arXiv 2104.09864), linear interpolation (2306.15595),
dynamic NTK (bloc97 and emozilla, 2023), YaRN (2309.00071), Llama 3.1's reference code.
"""

import math

import torch

from engine.config import ModelConfig
from engine.rope_scaling import RopeScaling
from kernels.interface import RopeTable


def build_rope_table(config: ModelConfig, max_len: int, device: torch.device) -> RopeTable:
    """cos and sin for positions 0 to max_len - 1.

    Angles are computed in float64: at position 100,000 a float32 angle is off by 0.004 rad.

    The "dynamic" kind stretches with the sequence in transformers, which would make cached keys wrong as a sequence
    grows. Here its length is max(max_len, max_position_embeddings), a constant of the process: the same numbers as
    transformers' as long as nothing is served beyond max_position_embeddings, and consistent with the cache there.
    """
    dim, scaling, magnitude = config.head_dim, config.rope_scaling, 1.0
    theta = config.rope_theta
    if scaling.kind == "dynamic":
        stretch = max(max_len, config.max_position_embeddings) / config.max_position_embeddings
        theta *= (scaling.factor * stretch - (scaling.factor - 1)) ** (dim / (dim - 2))
    frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    if scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling.kind == "llama3":
        frequencies = _llama3(frequencies, scaling)
    elif scaling.kind == "yarn":
        frequencies, magnitude = _yarn(frequencies, scaling, theta), _yarn_magnitude(scaling)
    angles = torch.outer(torch.arange(max_len, dtype=torch.float64), frequencies)
    cos, sin = ((values * magnitude).float().to(device) for values in (angles.cos(), angles.sin()))
    return RopeTable(cos, sin)


def _llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Long wavelengths are stretched by the factor, short ones kept, those between blended."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return kept * frequencies + (1.0 - kept) * frequencies / scaling.factor


def _yarn(frequencies: torch.Tensor, scaling: RopeScaling, theta: float) -> torch.Tensor:
    """Pairs that turn more than beta_fast times in the original context are kept, below beta_slow stretched."""
    half = frequencies.shape[0]

    def pair_turning(times: float) -> float:
        wavelength = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return half * math.log(wavelength) / math.log(theta)

    low, high = pair_turning(scaling.beta_fast), pair_turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = (
        max(low, 0),
        min(high, 2 * half - 1),
    )  # 2·half - 1 rather than half - 1, as in the published code
    width = high - low if high != low else 0.001
    stretched = ((torch.arange(half, dtype=torch.float64) - low) / width).clamp(0.0, 1.0)
    return stretched * frequencies / scaling.factor + (1.0 - stretched) * frequencies


def _yarn_magnitude(scaling: RopeScaling) -> float:
    """What yarn multiplies cos and sin by, which sharpens or flattens attention."""

    def magnitude(mscale: float) -> float:
        return 1.0 if scaling.factor <= 1.0 else 0.1 * mscale * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale is not None and scaling.mscale_all_dim is not None:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)

"""Cache elements of one byte: e4m3 (arXiv 2209.05433) with one scale per KV head.

Stored as uint8 so that every device can index and copy them; GPUs older than sm_89 have no e4m3 type.
"""

import torch

LARGEST = 448.0
"""Largest e4m3 value; bigger ones are clamped to it. There is no infinity."""


def encode(x: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Nearest e4m3 of ``x / scale`` as uint8.

    Args:
        x: ``[..., num_kv_heads, head_dim]``.
        scales: float32 ``[num_kv_heads]``.
    """
    scaled = x.float() / scales[:, None]
    return scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).view(torch.uint8)


def decode(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """float32 of codes whose KV heads are at dimension -3, ``[..., num_kv_heads, keys, head_dim]``."""
    return codes.view(torch.float8_e4m3fn).float() * scales[:, None, None]

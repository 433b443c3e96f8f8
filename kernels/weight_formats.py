"""How packed weights are stored, and how a piece of a panel becomes float32 again.

float32 and bfloat16 keep a checkpoint's weights exactly as they are. int8 and int4 are symmetric integers with a scale
per output and group of inputs, rounded to nearest; the largest magnitude of a group is represented exactly.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import torch
from numba.extending import overload

from kernels.microkernel import LINE, PANEL

WeightFormat = Literal["float32", "bfloat16", "int8", "int4"]
INT8_GROUP, INT4_GROUP = 128, 32
"""Inputs that share a scale."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight ``[out, in]`` in panels; the outputs beyond `out` are zero.

    Attributes:
        values: ``[panels, in, PANEL]`` float32, uint16 (bfloat16's bits) or int8; or int4 as uint8
            ``[panels, in, PANEL / 2]``: output o in the lower half of byte o, o + PANEL / 2 in the upper, plus 8.
        scales: float32 ``[panels, groups, PANEL]``; no groups if the format has no scales.
    """

    values: np.ndarray
    scales: np.ndarray

    @property
    def num_bytes(self) -> int:
        return int(self.values.nbytes + self.scales.nbytes)


def pack(weight: torch.Tensor, format: WeightFormat) -> PackedWeight:
    """Convert and pack a weight ``[out, in]`` of any floating dtype."""
    if format == "bfloat16":
        bits = weight.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
        return PackedWeight(_panels(bits), _no_scales())
    values = weight.float().numpy()
    if format == "float32":
        return PackedWeight(_panels(values), _no_scales())
    quantized, scales = _quantize(values, format)
    scale_panels = _panels(scales)
    if format == "int8":
        return PackedWeight(_panels(quantized), scale_panels)
    nibbles = _panels((quantized + 8).astype(np.uint8), padding=8)
    half = PANEL // 2
    return PackedWeight(nibbles[..., :half] | nibbles[..., half:] << 4, scale_panels)


def _no_scales() -> np.ndarray:
    return np.zeros((1, 0, PANEL), np.float32)


def _panels(values: np.ndarray, padding: int = 0) -> np.ndarray:
    """``[out, depth]`` → ``[panels, depth, PANEL]``."""
    outputs, depth = values.shape
    panels = _aligned((-(-outputs // PANEL), depth, PANEL), values.dtype)
    panels[-1] = padding
    for index, panel in enumerate(panels):
        rows = values[index * PANEL : (index + 1) * PANEL]
        panel[:, : len(rows)] = rows.T
    return panels


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Uninitialised, at the start of a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + LINE, np.uint8)
    offset = -raw.ctypes.data % LINE
    return raw[offset : offset + size].view(dtype).reshape(shape)


def _quantize(values: np.ndarray, format: Literal["int8", "int4"]) -> tuple[np.ndarray, np.ndarray]:
    """int8 values ``[out, in]`` of the format's range and float32 scales ``[out, groups]``."""
    outputs, depth = values.shape
    group = INT8_GROUP if format == "int8" else INT4_GROUP
    groups = -(-depth // group)
    padded = np.zeros((outputs, groups * group), np.float32)
    padded[:, :depth] = values
    cells = padded.reshape(outputs, groups, group)
    peaks = np.take_along_axis(cells, np.abs(cells).argmax(axis=2)[..., None], axis=2)[..., 0]
    # The 16 values of int4 reach further below zero than above: the peak goes to -8, whatever its sign.
    scales = np.abs(peaks) / 127 if format == "int8" else peaks / -8
    steps = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    low, high = (-127, 127) if format == "int8" else (-8, 7)
    quantized = np.clip(np.rint(cells * steps[..., None]), low, high).astype(np.int8)
    return quantized.reshape(outputs, -1)[:, :depth], scales.astype(np.float32)


def widen(
    values: np.ndarray, scales: np.ndarray, panel: int, start: int, depth: int, scratch: np.ndarray
) -> int:
    """Compiled only: address of ``[depth, PANEL]`` float32 weights of a panel from input `start` on.

    Args:
        scratch: float32 ``[≥ depth, PANEL]`` that may be used for them.
    """
    raise NotImplementedError


@overload(widen, strict=False)  # annotations may differ
def _widen(values: Any, scales: Any, panel: Any, start: Any, depth: Any, scratch: Any) -> Any:
    return {
        numba.float32: _in_place,
        numba.uint16: _widen_bfloat16,
        numba.int8: _widen_int8,
        numba.uint8: _widen_int4,
    }[values.dtype]


def _in_place(
    values: np.ndarray, scales: np.ndarray, panel: int, start: int, depth: int, scratch: np.ndarray
) -> int:
    return values.ctypes.data + (panel * values.shape[1] + start) * PANEL * 4


def _widen_bfloat16(
    values: np.ndarray, scales: np.ndarray, panel: int, start: int, depth: int, scratch: np.ndarray
) -> int:
    bits = scratch.view(np.uint32)
    for k in range(depth):
        row = values[panel, start + k]
        for o in range(PANEL):
            bits[k, o] = np.uint32(row[o]) << np.uint32(16)
    return scratch.ctypes.data


def _widen_int8(
    values: np.ndarray, scales: np.ndarray, panel: int, start: int, depth: int, scratch: np.ndarray
) -> int:
    for k in range(depth):
        row, scale = values[panel, start + k], scales[panel, (start + k) // INT8_GROUP]
        for o in range(PANEL):
            scratch[k, o] = np.float32(row[o]) * scale[o]
    return scratch.ctypes.data


def _widen_int4(
    values: np.ndarray, scales: np.ndarray, panel: int, start: int, depth: int, scratch: np.ndarray
) -> int:
    half = PANEL // 2
    for k in range(depth):
        row, scale = values[panel, start + k], scales[panel, (start + k) // INT4_GROUP]
        for o in range(half):
            byte = np.int32(row[o])
            scratch[k, o] = np.float32((byte & 15) - 8) * scale[o]
            scratch[k, half + o] = np.float32((byte >> 4) - 8) * scale[half + o]
    return scratch.ctypes.data

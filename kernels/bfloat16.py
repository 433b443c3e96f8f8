"""bfloat16 storage for float32 arithmetic: the upper half of a float32's bits, in uint16 arrays."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from kernels.microkernel import FLOAT_BYTES, LANES

BFLOAT16_BYTES = 2

_FLOAT, _INT16, _INT32, _INT64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_NAN = np.uint32(0x7FC0)


def _float_to_bits(typing_context: Any, value: Any) -> tuple[Any, Callable]:
    """The bits of a float32."""

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _INT32)

    return types.uint32(types.float32), generate


def _widen_bfloat16(typing_context: Any, source: Any, target: Any, count: Any) -> tuple[Any, Callable]:
    """Copy `count` bfloat16 as float32; `source` and `target` are addresses."""

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        source, target, count = arguments
        whole = builder.udiv(count, _INT64(LANES))
        for first, copies, width in (
            (_INT64(0), whole, LANES),
            (builder.mul(whole, _INT64(LANES)), builder.urem(count, _INT64(LANES)), 1),
        ):
            with cgutils.for_range(builder, copies) as turn:
                element = builder.add(first, builder.mul(turn.index, _INT64(width)))
                _widen_vector(builder, source, target, element, width)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


def _widen_vector(
    builder: ir.IRBuilder, source: ir.Value, target: ir.Value, element: ir.Value, width: int
) -> None:
    def pointer(base: ir.Value, item_bytes: int, kind: ir.Type) -> ir.Value:
        address = builder.add(base, builder.mul(element, _INT64(item_bytes)))
        return builder.inttoptr(address, ir.VectorType(kind, width).as_pointer())

    stored = builder.load(pointer(source, BFLOAT16_BYTES, _INT16), align=BFLOAT16_BYTES)
    wide = ir.VectorType(_INT32, width)
    bits = builder.shl(builder.zext(stored, wide), ir.Constant(wide, [16] * width))
    values = builder.bitcast(bits, ir.VectorType(_FLOAT, width))
    builder.store(values, pointer(target, FLOAT_BYTES, _FLOAT), align=FLOAT_BYTES)


float_to_bits: Callable[..., np.uint32] = intrinsic(_float_to_bits)
widen_bfloat16: Callable[..., None] = intrinsic(_widen_bfloat16)


@numba.njit(cache=True, nogil=True)
def bfloat16_bits(value: np.float32) -> np.uint16:
    """Rounded to the nearest, ties to even, as torch does."""
    bits = float_to_bits(value)
    upper = bits >> np.uint32(16)
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    return np.uint16(_NAN if value != value else rounded)


def as_stored(value: np.float32, storage: np.ndarray) -> Any:
    """Compiled only: a float32 as an array of float32 or of bfloat16's bits (uint16) holds it."""
    raise NotImplementedError


@overload(as_stored, strict=False)  # annotations may differ
def _as_stored(value: Any, storage: Any) -> Any:
    return _itself if storage.dtype == numba.float32 else _rounded


def _itself(value: np.float32, storage: np.ndarray) -> np.float32:
    return value


def _rounded(value: np.float32, storage: np.ndarray) -> np.uint16:
    return bfloat16_bits(value)


def widen_row(stored: np.ndarray, out: np.ndarray) -> None:
    """Compiled only: copy float32, or bfloat16's bits (uint16), into float32 of the same length."""
    raise NotImplementedError


@overload(widen_row, strict=False)  # annotations may differ
def _widen_row(stored: Any, out: Any) -> Any:
    return _copy_row if stored.dtype == numba.float32 else _widen_bits


def _copy_row(stored: np.ndarray, out: np.ndarray) -> None:
    out[:] = stored


def _widen_bits(stored: np.ndarray, out: np.ndarray) -> None:
    widen_bfloat16(stored.ctypes.data, out.ctypes.data, out.shape[0])

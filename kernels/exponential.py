"""exp for compiled loops: plain arithmetic, which LLVM computes for whole vectors, with the same bits as alone.

Range reduction and polynomial as in Cephes' expf: relative error below 2e-7. Without fused operations, the compiler has
no choice that could make one element differ from another.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)
"""Between these the result is a normal number."""
LOG2_E = np.float32(1.44269504088896341)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
POLYNOMIAL = (
    np.float32(1.9875691500e-4),
    np.float32(1.3981999507e-3),
    np.float32(8.3334519073e-3),
    np.float32(4.1665795894e-2),
    np.float32(1.6666665459e-1),
    np.float32(5.0000001201e-1),
)
"""Of (e to the power of x - 1 - x) / x², highest power first."""
_P0, _P1, _P2, _P3, _P4, _P5 = POLYNOMIAL
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
EXPONENT_BIAS, FRACTION_BITS = np.int32(127), np.int32(23)


def _bits_to_float(typing_context: Any, bits: Any) -> tuple[Any, Callable]:
    """The float32 with the bits of an int32."""

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


bits_to_float: Callable[..., np.float32] = intrinsic(_bits_to_float)


@numba.njit(cache=True, nogil=True)
def exp(x: np.float32) -> np.float32:
    """e to the power of x: zero for x below `LOWEST`, clipped above `HIGHEST`; NaN stays NaN."""
    clipped = LOWEST if x < LOWEST else (HIGHEST if x > HIGHEST else x)
    twos = np.floor(clipped * LOG2_E + _HALF)
    rest = (clipped - twos * LN2_HIGH) - twos * LN2_LOW
    power = _P0
    power = power * rest + _P1
    power = power * rest + _P2
    power = power * rest + _P3
    power = power * rest + _P4
    power = power * rest + _P5
    power = power * (rest * rest) + rest + _ONE
    power *= bits_to_float((np.int32(twos) + EXPONENT_BIAS) << FRACTION_BITS)
    return _ZERO if x < LOWEST else power

"""The running softmax of one lane over one chunk of scores, emitted as LLVM vectors through numba.

LLVM's own vectorisation of the same three loops (maximum, exponential, sum) takes four times as long. Sums run over the
vectors in order and then over the lanes of one vector by halves, so the bits depend on the scores alone.
"""

from collections.abc import Callable
from typing import Any, SupportsFloat

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.exponential import (
    EXPONENT_BIAS,
    FRACTION_BITS,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    LOWEST,
    POLYNOMIAL,
)
from kernels.microkernel import FLOAT_BYTES, LANES

_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR, _INT_VECTOR = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT32, LANES)


def _maximum(typing_context: Any, address: Any, vectors: Any, least: Any) -> tuple[Any, Callable]:
    """The highest of `LANES · vectors` float32 scores and `least`; NaN is passed over.

    Args:
        address: of the first score.
    """

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        address, vectors, least = arguments
        highest = cgutils.alloca_once_value(builder, _spread(builder, least))
        with cgutils.for_range(builder, vectors) as turn:
            scores = builder.load(_pointer(builder, address, turn.index), align=FLOAT_BYTES)
            builder.store(_higher(builder, scores, builder.load(highest)), highest)
        return _halve(builder, builder.load(highest), _higher)

    return types.float32(types.intp, types.intp, types.float32), generate


def _exponentiate(typing_context: Any, address: Any, vectors: Any, highest: Any) -> tuple[Any, Callable]:
    """Replace `LANES · vectors` float32 scores by ``exp(score - highest)``, `kernels.exponential.exp`'s bits.

    Args:
        highest: at least the highest score.

    Returns:
        The sum of the exponentials.
    """

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        address, vectors, highest = arguments
        highest = _spread(builder, highest)
        total = cgutils.alloca_once_value(builder, _constant(0.0))
        with cgutils.for_range(builder, vectors) as turn:
            pointer = _pointer(builder, address, turn.index)
            x = builder.fsub(builder.load(pointer, align=FLOAT_BYTES), highest)
            power = _exp(builder, x)
            builder.store(power, pointer, align=FLOAT_BYTES)
            builder.store(builder.fadd(builder.load(total), power), total)
        return _halve(builder, builder.load(total), lambda b, low, high: b.fadd(low, high))

    return types.float32(types.intp, types.intp, types.float32), generate


maximum: Callable[..., Any] = intrinsic(_maximum)
exponentiate: Callable[..., Any] = intrinsic(_exponentiate)


def _exp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """`kernels.exponential.exp` for x ≤ 0 or NaN."""
    too_low = builder.fcmp_ordered("<", x, _constant(LOWEST))
    clipped = builder.select(too_low, _constant(LOWEST), x)
    scaled = builder.fadd(builder.fmul(clipped, _constant(LOG2_E)), _constant(0.5))
    floor = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), f"llvm.floor.v{LANES}f32"
    )
    twos = builder.call(floor, [scaled])
    rest = builder.fsub(clipped, builder.fmul(twos, _constant(LN2_HIGH)))
    rest = builder.fsub(rest, builder.fmul(twos, _constant(LN2_LOW)))
    power: ir.Value = _constant(POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        power = builder.fadd(builder.fmul(power, rest), _constant(coefficient))
    power = builder.fmul(power, builder.fmul(rest, rest))
    power = builder.fadd(builder.fadd(power, rest), _constant(1.0))
    bias = ir.Constant(_INT_VECTOR, [int(EXPONENT_BIAS)] * LANES)
    bits = ir.Constant(_INT_VECTOR, [int(FRACTION_BITS)] * LANES)
    exponent = builder.shl(builder.add(builder.fptosi(twos, _INT_VECTOR), bias), bits)
    power = builder.fmul(power, builder.bitcast(exponent, _VECTOR))
    return builder.select(too_low, _constant(0.0), power)


def _higher(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _halve(
    builder: ir.IRBuilder, vector: ir.Value, join: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """Join a vector's lanes into one number: upper half with lower half, and again."""
    width = LANES
    while width > 1:
        width //= 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        low, high = (
            ir.Constant(ir.VectorType(_INT32, width), list(range(first, first + width)))
            for first in (0, width)
        )
        vector = join(
            builder,
            builder.shuffle_vector(vector, undefined, low),
            builder.shuffle_vector(vector, undefined, high),
        )
    return builder.extract_element(vector, _INT32(0))


def _pointer(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> ir.Value:
    offset = builder.mul(vector, _INT64(LANES * FLOAT_BYTES))
    return builder.inttoptr(builder.add(address, offset), _VECTOR.as_pointer())


def _spread(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    single = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(_INT_VECTOR, [0] * LANES))


def _constant(value: SupportsFloat) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(value)] * LANES)


@numba.njit(cache=True, nogil=True)
def soften_chunk(address: int, vectors: int, before: float) -> tuple[float, float]:
    """Turn scores into weights of a running softmax.

    Args:
        address: of `LANES · vectors` float32 scores, which become ``exp(score - highest)``.
        before: float32, the highest score of the chunks before this one.

    Returns:
        The highest score so far, and the sum of this chunk's weights.
    """
    highest = maximum(address, vectors, before)
    return highest, exponentiate(address, vectors, highest)

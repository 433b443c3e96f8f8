"""Products and roundings that mean the same on every target and in Triton's interpreter.

The interpreter (3.9) has no bfloat16 arithmetic: it multiplies the bit patterns, and rounds float32 towards zero. Where
it runs, both are spelled out here.
"""

import triton
import triton.language as tl

from kernels.registry import INTERPRETED

SPELL_OUT = tl.constexpr(INTERPRETED)


@triton.jit
def dot(a, b, acc):
    """``acc + a · b`` for ``[m, k]`` and ``[k, n]`` of one dtype, summed in float32; float32 is not rounded to TF32."""
    if SPELL_OUT:
        # Products of two half-precision numbers are exact in float32, as they are in a tensor core.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """float32 in DTYPE, to nearest, ties to even."""
    if SPELL_OUT and tl.bfloat16 == DTYPE:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(x != x, 0x7FC0, bits)
        return bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
    return x.to(DTYPE)

"""e4m3 (arXiv 2209.05433) in integer arithmetic, so that it works on every target, with or without such a type.

Bit-equal to `kernels.e4m3`, which torch computes.
"""

import triton
import triton.language as tl


@triton.jit
def decode_e4m3(codes):
    """uint8 codes → float16 holding **1/256** of their values, exactly; NaN stays NaN.

    e4m3 and float16 differ by 8 in their exponents' bias: shifted into place, sign, exponent and mantissa read as the
    value / 2⁸, subnormals too.
    """
    wide = codes.to(tl.int16)
    bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
    bits = tl.where((wide & 0x7F) == 0x7F, 0x7E00, bits)
    return bits.to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def encode_e4m3(x):
    """Nearest e4m3 (ties to even) of float32 values as uint8; clamped to ±448, NaN stays NaN."""
    bits = x.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 0x80
    magnitude = bits & 0x7FFFFFFF
    is_nan = magnitude > 0x7F800000
    clamped = tl.minimum(magnitude, 0x43E00000)  # 448.0
    # Normal: round the mantissa to 3 bits, then change the exponent's bias from 127 to 7.
    rounded = clamped + 0x7FFFF + ((clamped >> 20) & 1)
    normal = (rounded >> 20) - (120 << 3)
    # Below 2⁻⁶: adding 2¹⁴, whose last mantissa bit is worth 2⁻⁹, rounds to multiples of that.
    shifted = clamped.to(tl.float32, bitcast=True) + 16384.0
    subnormal = shifted.to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(clamped < 0x3C800000, subnormal, normal)
    code = tl.where(is_nan, 0x7F, code)
    return (sign | code).to(tl.uint8)


@triton.jit
def stored_scale(scales, stored, kv_head):
    """What `walk`'s view of one element in `stored`, a pointer to keys or values, is to be multiplied by."""
    scale = tl.load(scales + kv_head)
    if stored.dtype.element_ty == tl.uint8:
        scale *= 256.0
    return scale

"""Asking the CPU for memory that will be read soon, for code compiled by numba."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.microkernel import LINE, PREFETCH_TO_L2

_BYTE, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _prefetch(typing_context: Any, address: Any, size: Any) -> tuple[Any, Callable]:
    """Ask for the cache lines of `size` bytes from `address` on; does not wait."""

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        address, size = arguments
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        lines = builder.udiv(builder.add(size, _INT64(LINE - 1)), _INT64(LINE))
        with cgutils.for_range(builder, lines) as turn:
            line = builder.add(address, builder.mul(turn.index, _INT64(LINE)))
            pointer = builder.inttoptr(line, _BYTE.as_pointer())
            builder.call(function, [pointer, _INT32(0), _INT32(PREFETCH_TO_L2), _INT32(1)])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


prefetch: Callable[..., None] = intrinsic(_prefetch)

"""The inner loop of the CPU's products, emitted as LLVM vectors through numba.

``totals[r, :] (+)= Σ_k x[r, k] · panel[k, :]`` for a few rows r and a panel of `PANEL` outputs, with one accumulator
register per row and `LANES` outputs. While it computes, it asks for the weights that come next: the stream from memory
then runs at its full rate beside the arithmetic, which the hardware prefetcher alone does not reach, because it stops at
every 4 KiB page. That is what makes further rows, and so further loops, nearly free (docs/results/cpu.md).

Every row is computed alike: its sums run over k in the same order however many rows there are.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64
"""Bytes of a cache line."""
UNROLL = 4
"""Steps of k per turn of the loop, among which its prefetches are spread."""
PREFETCHES = (0, 1, 2, 4, 6, 8, 16)
"""Cache lines that a turn can ask for. Each is code of its own: a loop over them costs registers that sums need."""
PREFETCH_TO_L2 = 2
"""LLVM's locality hint. Into the first level the lines would come too early and push each other out."""

_FLOAT, _BYTE, _INT32, _INT64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """What of a product is held in vector registers.

    Attributes:
        lanes: floats of a vector.
        vectors: vectors of a panel.
        rows: most rows at once.
    """

    lanes: int
    vectors: int
    rows: int

    @property
    def panel(self) -> int:
        """Outputs of a panel."""
        return self.lanes * self.vectors


def register_tile(features: Mapping[str, bool]) -> RegisterTile:
    """The largest tile whose accumulators, weights and one broadcast fit the vector registers.

    Args:
        features: LLVM's names of what the CPU has.
    """
    if features.get("avx512f"):
        return RegisterTile(lanes=16, vectors=4, rows=6)  # 24 + 4 + 1 of 32
    if features.get("avx"):
        return RegisterTile(lanes=8, vectors=2, rows=6)  # 12 + 2 + 1 of 16
    return RegisterTile(lanes=4, vectors=4, rows=6)  # ARM: 24 + 4 + 1 of 32


def _features() -> Mapping[str, bool]:
    """Of the CPU that numba compiles for, which its settings may restrict."""
    asked = numba.config.CPU_FEATURES  # type: ignore[attr-defined]
    if asked is None:
        return dict(llvmlite.binding.get_host_cpu_features())
    return {name[1:]: name[0] == "+" for name in asked.split(",") if name}


TILE = register_tile(_features())
PANEL = TILE.panel
_VECTOR = ir.VectorType(_FLOAT, TILE.lanes)


@intrinsic
def multiply_rows(
    typing_context: Any,
    rows: Any,
    first: Any,
    weights: Any,
    x: Any,
    x_stride: Any,
    depth: Any,
    totals: Any,
    totals_stride: Any,
    coming: Any,
    lines: Any,
) -> tuple[Any, Callable]:
    """Multiply some rows with `depth` steps of a panel. Addresses and strides are in bytes, everything is an intp.

    Args:
        rows: 1 to `TILE.rows`.
        first: not 0 stores the sums, 0 adds them to `totals`.
        weights: float32 ``[depth, PANEL]``.
        x: float32 ``[rows, depth]``, rows `x_stride` apart.
        totals: float32 ``[rows, PANEL]``, rows `totals_stride` apart.
        coming: weights that will be read soon.
        lines: cache lines of those to ask for per `UNROLL` steps, one of `PREFETCHES`.
    """

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        count, *operands, lines = arguments
        end = builder.append_basic_block("end")
        choice = builder.switch(builder.add(builder.mul(lines, _int(TILE.rows + 1)), count), end)
        for rows, number in itertools.product(range(1, TILE.rows + 1), PREFETCHES):
            block = builder.append_basic_block()
            choice.add_case(_int(number * (TILE.rows + 1) + rows), block)
            with builder.goto_block(block):
                builder.call(_variant(builder.module, rows, number), operands)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 10)), generate


def _variant(module: ir.Module, rows: int, lines: int) -> ir.Function:
    """A function of its own, since inlined copies would each be compiled again."""
    kind = ir.FunctionType(ir.VoidType(), [_INT64] * 8)
    function = cgutils.get_or_insert_function(module, kind, f"loopserve_multiply_{rows}_rows_{lines}_lines")
    if function.is_declaration:
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block())
        _Emitter(builder, rows, lines, *function.args).emit()
        builder.ret_void()
    return function


class _Emitter:
    """Writes the code of one `_multiply_rows`."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        rows: int,
        lines: int,
        first: ir.Value,
        weights: ir.Value,
        x: ir.Value,
        x_stride: ir.Value,
        depth: ir.Value,
        totals: ir.Value,
        totals_stride: ir.Value,
        coming: ir.Value,
    ) -> None:
        self.builder = builder
        self.first = builder.icmp_signed("!=", first, _int(0))
        self.weights = weights
        self.depth = depth
        self.coming = coming
        self.lines = lines
        self.x_rows = [self.builder.add(x, self._times(x_stride, row)) for row in range(rows)]
        self.totals_rows = [self.builder.add(totals, self._times(totals_stride, row)) for row in range(rows)]
        # Slots on the stack, which LLVM turns into registers.
        self.sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(TILE.vectors)] for _ in range(rows)]
        self.multiply_add = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_VECTOR, [_VECTOR] * 3),
            f"llvm.fmuladd.v{TILE.lanes}f32",
        )
        self.prefetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32]),
            "llvm.prefetch.p0i8",
        )

    def emit(self) -> None:
        builder = self.builder
        for slot in sum(self.sums, []):
            builder.store(ir.Constant(_VECTOR, [0.0] * TILE.lanes), slot)
        turns = builder.udiv(self.depth, _int(UNROLL))
        with cgutils.for_range(builder, turns) as turn:
            ahead = builder.add(self.coming, self._times(turn.index, self.lines * LINE))
            for step in range(UNROLL):
                for line in range(step, self.lines, UNROLL):
                    self._ask_for(builder.add(ahead, _int(line * LINE)))
                self._add_step(builder.add(self._times(turn.index, UNROLL), _int(step)))
        done = self._times(turns, UNROLL)
        with cgutils.for_range(builder, builder.sub(self.depth, done)) as rest:
            self._add_step(builder.add(done, rest.index))
        for address, sums in zip(self.totals_rows, self.sums, strict=True):
            for vector, slot in enumerate(sums):
                self._give(builder.load(slot), builder.add(address, self._vector_offset(vector)))

    def _add_step(self, k: ir.Value) -> None:
        builder = self.builder
        panel_row = self.builder.add(self.weights, self._times(k, PANEL * 4))
        weights = [
            self._load(self.builder.add(panel_row, self._vector_offset(vector)), _VECTOR)
            for vector in range(TILE.vectors)
        ]
        for row, sums in zip(self.x_rows, self.sums, strict=True):
            value = self._spread(self._load(self.builder.add(row, self._times(k, 4)), _FLOAT))
            for slot, weight in zip(sums, weights, strict=True):
                builder.store(builder.call(self.multiply_add, [weight, value, builder.load(slot)]), slot)

    def _give(self, value: ir.Value, address: ir.Value) -> None:
        """What `totals` held is not used if this is the first part of a sum; it may be anything."""
        total = self.builder.fadd(self._load(address, _VECTOR), value)
        total = self.builder.select(self.first, value, total)
        self.builder.store(total, self.builder.inttoptr(address, _VECTOR.as_pointer()), align=4)

    def _spread(self, value: ir.Value) -> ir.Value:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        single = self.builder.insert_element(undefined, value, _INT32(0))
        return self.builder.shuffle_vector(
            single, undefined, ir.Constant(ir.VectorType(_INT32, TILE.lanes), [0] * TILE.lanes)
        )

    def _ask_for(self, address: ir.Value) -> None:
        pointer = self.builder.inttoptr(address, _BYTE.as_pointer())
        self.builder.call(self.prefetch, [pointer, _INT32(0), _INT32(PREFETCH_TO_L2), _INT32(1)])

    def _load(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=4)

    def _times(self, value: ir.Value, factor: int) -> ir.Value:
        return self.builder.mul(value, _int(factor))

    @staticmethod
    def _vector_offset(vector: int) -> ir.Constant:
        return _int(vector * TILE.lanes * 4)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_INT64, value)

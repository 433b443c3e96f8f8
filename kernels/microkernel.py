"""The inner loop of the CPU's products, emitted as LLVM vectors through numba.

``totals[r, :] (+)= Σ_k x[r, k] · panel[k, :]`` for a few rows r and a panel of `PANEL` outputs, with one accumulator
register per row and `LANES` outputs. While it computes, it asks for the weights that come next: the stream from memory
then runs at its full rate beside the arithmetic, which the hardware prefetcher alone does not reach: it stops at every
4 KiB page. That is what makes further rows, and so further loops, nearly free (docs/results/cpu.md).

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
FLOAT_BYTES = 4
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
PANEL, LANES = TILE.panel, TILE.lanes
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * LANES)


def _multiply_rows(
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
        count, first, weights, *rest, lines = arguments
        operands = [first, weights, _int(PANEL * FLOAT_BYTES), *rest, _int(0)]
        variants = {
            number * (TILE.rows + 1) + rows: _Variant(rows, TILE.vectors, lines=number)
            for rows, number in itertools.product(range(1, TILE.rows + 1), PREFETCHES)
        }
        _choose(builder, builder.add(_times(builder, lines, TILE.rows + 1), count), variants, operands)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 10)), generate


def _multiply_vectors(
    typing_context: Any,
    rows: Any,
    columns: Any,
    first: Any,
    addresses: Any,
    stride: Any,
    x: Any,
    x_stride: Any,
    depth: Any,
    totals: Any,
    totals_stride: Any,
) -> tuple[Any, Callable]:
    """The same for weights of which every vector may lie anywhere; they are not fetched ahead.

    Args:
        columns: `PANEL`, or 1 to `LANES`.
        addresses: of int64 addresses, one per vector of columns: where it lies for k = 0.
        stride: between a vector's weights for k and k + 1.
        totals: float32 ``[rows, columns]``.
    """

    def generate(context: Any, builder: ir.IRBuilder, _: Any, arguments: Any) -> Any:
        count, columns, *operands = arguments
        kinds = [(TILE.vectors, False), (1, False), (1, True)]  # a panel, a vector, a part of one
        kind = builder.select(
            builder.icmp_signed("==", columns, _int(PANEL)),
            _int(0),
            builder.select(builder.icmp_signed("==", columns, _int(LANES)), _int(1), _int(2)),
        )
        variants = {
            number * (TILE.rows + 1) + rows: _Variant(rows, vectors, scattered=True, masked=masked)
            for rows in range(1, TILE.rows + 1)
            for number, (vectors, masked) in enumerate(kinds)
        }
        nothing_ahead = _int(0)
        key = builder.add(_times(builder, kind, TILE.rows + 1), count)
        _choose(builder, key, variants, [*operands, nothing_ahead, columns])
        return context.get_dummy_value()

    return types.void(*([types.intp] * 10)), generate


multiply_rows: Callable[..., None] = intrinsic(_multiply_rows)
multiply_vectors: Callable[..., None] = intrinsic(_multiply_vectors)


@dataclass(frozen=True, slots=True)
class _Variant:
    """One shape of the inner loop.

    Attributes:
        lines: cache lines to ask for per turn.
        scattered: `weights` is the address of its vectors' addresses.
        masked: the only vector is used in part.
    """

    rows: int
    vectors: int
    lines: int = 0
    scattered: bool = False
    masked: bool = False

    def function(self, module: ir.Module) -> ir.Function:
        """A function of its own, since inlined copies would each be compiled again."""
        kind = f"{self.lines}_{self.scattered:d}{self.masked:d}"
        name = f"loopserve_multiply_{self.rows}x{self.vectors}_{kind}"
        function = cgutils.get_or_insert_function(module, ir.FunctionType(ir.VoidType(), [_INT64] * 10), name)
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            builder = ir.IRBuilder(function.append_basic_block())
            _Emitter(builder, self, *function.args).emit()
            builder.ret_void()
        return function


def _choose(
    builder: ir.IRBuilder, key: ir.Value, variants: dict[int, _Variant], operands: list[ir.Value]
) -> None:
    end = builder.append_basic_block("end")
    choice = builder.switch(key, end)
    for number, variant in variants.items():
        block = builder.append_basic_block()
        choice.add_case(_int(number), block)
        with builder.goto_block(block):
            builder.call(variant.function(builder.module), operands)
            builder.branch(end)
    builder.position_at_end(end)


class _Emitter:
    """Writes the code of one variant."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        variant: _Variant,
        first: ir.Value,
        weights: ir.Value,
        weights_stride: ir.Value,
        x: ir.Value,
        x_stride: ir.Value,
        depth: ir.Value,
        totals: ir.Value,
        totals_stride: ir.Value,
        coming: ir.Value,
        columns: ir.Value,
    ) -> None:
        self.builder = builder
        self.variant = variant
        self.first = builder.icmp_signed("!=", first, _int(0))
        self.weights = self._vector_addresses(weights)
        self.weights_stride = weights_stride
        self.depth = depth
        self.coming = coming
        self.x_rows = [builder.add(x, _times(builder, x_stride, row)) for row in range(variant.rows)]
        self.totals_rows = [
            builder.add(totals, _times(builder, totals_stride, row)) for row in range(variant.rows)
        ]
        # Slots on the stack, which LLVM turns into registers.
        self.sums = [
            [cgutils.alloca_once(builder, _VECTOR) for _ in range(variant.vectors)]
            for _ in range(variant.rows)
        ]
        self.mask = self._mask(columns) if variant.masked else None

    def _vector_addresses(self, weights: ir.Value) -> list[ir.Value]:
        builder, vectors = self.builder, range(self.variant.vectors)
        if not self.variant.scattered:
            return [builder.add(weights, _vector_offset(vector)) for vector in vectors]
        pointer = builder.inttoptr(weights, _INT64.as_pointer())
        return [builder.load(builder.gep(pointer, [_int(vector)])) for vector in vectors]

    def emit(self) -> None:
        builder = self.builder
        for slot in itertools.chain.from_iterable(self.sums):
            builder.store(_ZEROS, slot)
        turns = builder.udiv(self.depth, _int(UNROLL))
        with cgutils.for_range(builder, turns) as turn:
            ahead = builder.add(self.coming, _times(builder, turn.index, self.variant.lines * LINE))
            for step in range(UNROLL):
                for line in range(step, self.variant.lines, UNROLL):
                    self._ask_for(builder.add(ahead, _int(line * LINE)))
                self._add_step(builder.add(_times(builder, turn.index, UNROLL), _int(step)))
        done = _times(builder, turns, UNROLL)
        with cgutils.for_range(builder, builder.sub(self.depth, done)) as rest:
            self._add_step(builder.add(done, rest.index))
        for address, sums in zip(self.totals_rows, self.sums, strict=True):
            for vector, slot in enumerate(sums):
                self._give(builder.load(slot), builder.add(address, _vector_offset(vector)))

    def _add_step(self, k: ir.Value) -> None:
        builder = self.builder
        offset = builder.mul(k, self.weights_stride)
        weights = [self._load(builder.add(address, offset)) for address in self.weights]
        for row, sums in zip(self.x_rows, self.sums, strict=True):
            address = builder.add(row, _times(builder, k, FLOAT_BYTES))
            value = self._spread(builder.load(builder.inttoptr(address, _FLOAT.as_pointer())), _FLOAT)
            for slot, weight in zip(sums, weights, strict=True):
                total = self._call("fmuladd", _VECTOR, [weight, value, builder.load(slot)])
                builder.store(total, slot)

    def _give(self, value: ir.Value, address: ir.Value) -> None:
        """What `totals` held is not used if this is the first part of a sum; it may be anything."""
        builder = self.builder
        total = builder.select(self.first, value, builder.fadd(self._load(address), value))
        pointer = builder.inttoptr(address, _VECTOR.as_pointer())
        if self.mask is None:
            builder.store(total, pointer, align=FLOAT_BYTES)
        else:
            self._call("masked.store", ir.VoidType(), [total, pointer, _INT32(FLOAT_BYTES), self.mask])

    def _load(self, address: ir.Value) -> ir.Value:
        pointer = self.builder.inttoptr(address, _VECTOR.as_pointer())
        if self.mask is None:
            return self.builder.load(pointer, align=FLOAT_BYTES)
        return self._call("masked.load", _VECTOR, [pointer, _INT32(FLOAT_BYTES), self.mask, _ZEROS])

    def _mask(self, columns: ir.Value) -> ir.Value:
        numbers = ir.Constant(ir.VectorType(_INT32, LANES), list(range(LANES)))
        count = self._spread(self.builder.trunc(columns, _INT32), _INT32)
        return self.builder.icmp_signed("<", numbers, count)

    def _spread(self, value: ir.Value, kind: ir.Type) -> ir.Value:
        vector = ir.VectorType(kind, LANES)
        undefined = ir.Constant(vector, ir.Undefined)
        single = self.builder.insert_element(undefined, value, _INT32(0))
        first_everywhere = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
        return self.builder.shuffle_vector(single, undefined, first_everywhere)

    def _ask_for(self, address: ir.Value) -> None:
        pointer = self.builder.inttoptr(address, _BYTE.as_pointer())
        self._call("prefetch", ir.VoidType(), [pointer, _INT32(0), _INT32(PREFETCH_TO_L2), _INT32(1)])

    def _call(self, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
        """An LLVM intrinsic."""
        floats = f"v{LANES}f32"
        suffix = {"fmuladd": floats, "prefetch": "p0i8"}.get(name, f"{floats}.p0{floats}")
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.{suffix}")
        return self.builder.call(function, arguments)


def _vector_offset(vector: int) -> ir.Constant:
    return _int(vector * LANES * FLOAT_BYTES)


def _times(builder: ir.IRBuilder, value: ir.Value, factor: int) -> ir.Value:
    return builder.mul(value, _int(factor))


def _int(value: int) -> ir.Constant:
    return ir.Constant(_INT64, value)

"""The model shapes that are compiled for, and the pass that makes the backend launch everything for one of them."""

from dataclasses import dataclass, replace

import torch

from kernels.gpu.triton_backend import TritonBackend
from kernels.interface import HiddenGate, LayerCache, QueryGate, RopeTable, RowBatch
from tools.compile_kernels.launches import Launch, Recorder, Use

META = torch.device("meta")
DTYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.uint8: "e4m3"}
ROWS, SEQUENCES, CARRY_SLOTS, VOCAB, MAX_LEN = 24, 4, 65, 1000, 4096
TABLE_BLOCKS = 40


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model and its server options reaches a kernel.

    Attributes:
        dtype: compute dtype. cache_dtype: uint8 for e4m3.
        num_blocks: of the cache.
        attention, row_kernels: which of the two groups of kernels to record for it.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    num_loops: int
    block_size: int
    dtype: torch.dtype
    cache_dtype: torch.dtype
    window: int = 64
    num_blocks: int = 1000
    attention: bool = True
    row_kernels: bool = False

    @property
    def precision(self) -> str:
        compute, cache = DTYPE_NAMES[self.dtype], DTYPE_NAMES[self.cache_dtype]
        return compute if compute == cache else f"{compute}, {cache} cache"


BF16 = torch.bfloat16, torch.bfloat16
BF16_E4M3 = torch.bfloat16, torch.uint8
FP16 = torch.float16, torch.float16
FP16_E4M3 = torch.float16, torch.uint8
FP32 = torch.float32, torch.float32

PRECISIONS = {
    64: (BF16, BF16_E4M3, FP16, FP32),
    96: (BF16, BF16_E4M3, FP16_E4M3, FP32),
    128: (BF16, BF16_E4M3, FP16, FP32),
    256: (BF16, BF16_E4M3, FP16_E4M3, FP32),
}
"""By head size. float16 compiles to bfloat16's program but for the instructions' type: each head size meets it once."""
LOOPS_AND_GROUPS = ((2, 5), (4, 16), (1, 7), (4, 8), (3, 6))
"""Loops R and query heads per KV head: decode programs of 16, 64, 16, 32 and 32 lanes."""
BLOCK_SIZES = (16, 32, 64, 128)

COVERING_TEXT = """attention for heads of 64, 96, 128 and 256 in bfloat16, float32, float16 and with e4m3 caches,
over which R = 1…4, 16, 32 and 64 decode lanes and blocks of 16…128 positions are dealt out (not the full product: each
head size meets all block sizes and four of the five pairs of R and group), 64 lanes again where registers are scarcest,
and LoopCoder-V2's attention as served, with a cache below and over 2 GiB per layer; every other kernel for LoopCoder-V2
and for a small odd shape."""


def loopcoder(precision: tuple[torch.dtype, torch.dtype], num_blocks: int = 1000) -> ModelShape:
    """LoopCoder-V2 as served by default."""
    return ModelShape(5120, 27648, 40, 8, 128, 2, 16, *precision, num_blocks=num_blocks, row_kernels=True)


def odd(precision: tuple[torch.dtype, torch.dtype], attention: bool = True) -> ModelShape:
    """Nothing is a power of two and little a multiple of 16."""
    return ModelShape(200, 344, 5, 5, 40, 3, 16, *precision, window=5, attention=attention, row_kernels=True)


def attention_only(
    head_dim: int, num_loops: int, group: int, block_size: int, precision: tuple[torch.dtype, torch.dtype]
) -> ModelShape:
    return ModelShape(1024, 2816, 2 * group, 2, head_dim, num_loops, block_size, *precision)


def covering_shapes() -> tuple[ModelShape, ...]:
    """As `COVERING_TEXT` says."""
    dealt = tuple(
        attention_only(
            head_dim,
            *LOOPS_AND_GROUPS[(2 * i + j) % len(LOOPS_AND_GROUPS)],
            BLOCK_SIZES[(i + j) % 4],
            precision,
        )
        for i, (head_dim, precisions) in enumerate(PRECISIONS.items())
        for j, precision in enumerate(precisions)
    )
    heavy = tuple(
        attention_only(head_dim, 4, 16, 16, precision)
        for head_dim, precision in ((128, BF16), (128, FP32), (256, BF16_E4M3), (256, FP32))
    )
    served = (
        loopcoder(BF16),
        loopcoder(BF16, num_blocks=100_000),
        loopcoder(BF16_E4M3),
        replace(loopcoder(FP32), attention=False),
    )
    return dealt + heavy + served + (odd(FP16, attention=False), odd(FP32))


def record(shapes: tuple[ModelShape, ...]) -> dict[Launch, set[Use]]:
    """What the backend launches for these shapes, and what for."""
    recorder = Recorder()
    backend = TritonBackend(launch=recorder)
    for shape in shapes:
        if shape.row_kernels:
            _pass_rows(backend, recorder, shape)
        if shape.attention:
            _attend(backend, recorder, shape)
    return recorder.uses


def _pass_rows(backend: TritonBackend, recorder: Recorder, shape: ModelShape) -> None:
    """Every operation but attention, as a layer would call it."""
    recorder.phase, recorder.precision = "any", DTYPE_NAMES[shape.dtype]
    batch = _batch(shape, decode_tiles=0, prefill_tiles=SEQUENCES, parts=0)
    embedding, carries = _empty(shape, VOCAB, shape.hidden), _empty(shape, CARRY_SLOTS, shape.hidden)
    x = backend.loop_input(embedding, carries, batch, 1.0, 1.0)
    gain = _empty(shape, shape.hidden)
    backend.rms_norm(x, gain, 1e-6)
    backend.add_rms_norm(x, x, gain, 1e-6)
    backend.silu_mul(_empty(shape, ROWS, 2 * shape.intermediate))
    backend.keep_hidden(x, carries, _empty(shape, shape.num_blocks + 1, shape.hidden), batch)
    queries, bias = _empty(shape, ROWS, shape.heads, shape.head_dim), _empty(shape, shape.heads)
    hidden_gate = HiddenGate(gain, _empty(shape, shape.heads, shape.hidden), bias)
    backend.gates(hidden_gate, x, queries, 1e-6)
    backend.gates(QueryGate(_empty(shape, shape.heads, shape.head_dim), bias), x, queries, 1e-6)
    recorder.precision = shape.precision
    rope = RopeTable(*(torch.empty(MAX_LEN, shape.head_dim // 2, device=META) for _ in range(2)))
    qkv = _empty(shape, ROWS, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    backend.rotate_and_write(qkv, rope, _cache(shape), batch)


def _attend(backend: TritonBackend, recorder: Recorder, shape: ModelShape) -> None:
    """Attention in its three forms."""
    cache, queries = _cache(shape), _empty(shape, ROWS, shape.heads, shape.head_dim)
    gates = torch.empty(ROWS, shape.heads, device=META) if shape.num_loops > 1 else None
    recorder.precision = shape.precision
    tiling = backend.tiling(shape.head_dim, shape.heads // shape.kv_heads, shape.num_loops, shape.dtype)
    for phase, decode_tiles, prefill_tiles, parts in (
        ("decode", SEQUENCES, 0, 0),
        ("split decode", SEQUENCES, 0, 3 * SEQUENCES),
        ("prefill", 0, SEQUENCES, 0),
    ):
        if phase == "decode" and tiling.always_splits:
            continue
        recorder.phase = phase
        backend.attend(cache, queries, gates, _batch(shape, decode_tiles, prefill_tiles, parts))


def _empty(shape: ModelShape, *size: int) -> torch.Tensor:
    return torch.empty(*size, dtype=shape.dtype, device=META)


def _cache(shape: ModelShape) -> LayerCache:
    size = shape.num_blocks + 1, shape.kv_heads, shape.block_size, shape.head_dim
    keys, values = (torch.empty(size, dtype=shape.cache_dtype, device=META) for _ in range(2))
    if shape.cache_dtype != torch.uint8:
        return LayerCache(keys, values)
    return LayerCache(keys, values, *(torch.empty(shape.kv_heads, device=META) for _ in range(2)))


def _batch(shape: ModelShape, decode_tiles: int, prefill_tiles: int, parts: int) -> RowBatch:
    def ids(*size: int) -> torch.Tensor:
        return torch.empty(*size, dtype=torch.int32, device=META)

    later_loops = shape.num_loops - 1
    return RowBatch(
        token_ids=ids(ROWS),
        positions=ids(ROWS),
        loops=ids(ROWS),
        windows=ids(ROWS),
        input_slots=ids(ROWS),
        output_slots=ids(ROWS),
        snapshot_blocks=ids(ROWS),
        cache_slots=ids(ROWS),
        tiles=ids(decode_tiles + prefill_tiles, 3),
        parts=ids(parts, 2),
        part_starts=ids(decode_tiles),
        context_tables=ids(SEQUENCES, TABLE_BLOCKS),
        window_tables=ids(SEQUENCES, later_loops, TABLE_BLOCKS),
        window_first=ids(SEQUENCES, later_loops),
        window_floor=ids(SEQUENCES, later_loops),
        logit_rows=ids(SEQUENCES),
        window=shape.window,
        num_decode_tiles=decode_tiles,
    )

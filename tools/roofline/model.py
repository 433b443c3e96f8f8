"""Bytes and FLOPs of a step, and the time that a GPU's data sheet allows them. A model, not a measurement.

A step is a chain of kernels that cannot overlap, since each needs the one before. Its time is therefore the sum over
two stages, the products with weights and the attention, of ``max(bytes / bandwidth, FLOPs / peak)`` (Williams,
Waterman, Patterson: Roofline, CACM 2009), where a stage's bytes include its activations.
"""

from dataclasses import dataclass
from typing import Literal

Execution = Literal["parallel", "sequential"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peaks from the vendor's data sheet.

    Attributes:
        bandwidth: bytes per second of its memory.
        flops: dense bfloat16 tensor-core FLOPs per second.
        memory: bytes.
    """

    name: str
    bandwidth: float
    flops: float
    memory: float


A100 = Gpu("A100 80GB SXM", 2.039e12, 312e12, 80e9)
"""NVIDIA A100 data sheet (2021): 2,039 GB/s, 312 TFLOPS bfloat16 without sparsity."""

H100 = Gpu("H100 SXM", 3.35e12, 989.4e12, 80e9)
"""NVIDIA H100 data sheet (2023): 3.35 TB/s, 1,979 TFLOPS bfloat16 with sparsity, half of it without."""

GPUS = (A100, H100)


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes in elements; `window` is W, so a later loop sees W + 1 of its own keys."""

    hidden: int = 5120
    layers: int = 14
    heads: int = 40
    kv_heads: int = 8
    head_dim: int = 128
    intermediate: int = 27648
    vocab: int = 76800
    window: int = 64
    element_bytes: int = 2

    @property
    def layer_weights(self) -> int:
        """Elements of one layer's matrices: q, k, v, o, gate, up, down."""
        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.hidden * (2 * q_width + 2 * kv_width) + 3 * self.hidden * self.intermediate

    @property
    def kv_elements(self) -> int:
        """Key and value elements of one position of one loop, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


LOOPCODER_7B = Shape()
"""The released LoopCoder-V2 (arXiv 2606.18023)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage moves and computes."""

    bytes: float
    flops: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, count: float) -> "Cost":
        return Cost(count * self.bytes, count * self.flops)

    def seconds(self, gpu: Gpu) -> float:
        return max(self.bytes / gpu.bandwidth, self.flops / gpu.flops)


def products(shape: Shape, rows: int, num_loops: int) -> Cost:
    """One pass of `rows` rows through all layers: weights once, and each row's activations.

    Per layer a row's activations are written and read once between kernels: the residual twice, the normed input of
    both halves, q, k, v, the attention's output, gate, up and their product.
    """
    weights = shape.layer_weights + (shape.heads * shape.hidden if num_loops > 1 else 0)
    q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    activations = 6 * shape.hidden + 2 * q_width + 2 * kv_width + 3 * shape.intermediate
    moved = shape.element_bytes * (weights + 2 * rows * activations)
    return Cost(moved, 2 * rows * weights).times(shape.layers)


def head(shape: Shape, rows: int) -> Cost:
    """Logits of `rows` rows, written in float32."""
    weights = shape.vocab * shape.hidden
    return Cost(
        shape.element_bytes * (weights + rows * shape.hidden) + 4 * rows * shape.vocab, 2 * rows * weights
    )


def shared_attention(shape: Shape, queries: float, reads: float, context: float) -> Cost:
    """`queries` rows over `context` keys that are read `reads` times from memory, all layers."""
    per_key = shape.kv_elements * shape.element_bytes
    return Cost(
        reads * context * per_key, queries * context * 4 * shape.layers * shape.heads * shape.head_dim
    )


def window_attention(shape: Shape, rows: float) -> Cost:
    """`rows` rows of later loops, each over its own W + 1 keys."""
    return shared_attention(shape, rows, rows, shape.window + 1)


def kv_writes(shape: Shape, rows: float) -> Cost:
    """Keys and values of `rows` rows."""
    return Cost(rows * shape.kv_elements * shape.element_bytes, 0)


def decode_seconds(
    shape: Shape, gpu: Gpu, num_loops: int, execution: Execution, batch: int, context: int
) -> float:
    """One token for each of `batch` sequences that have `context` tokens.

    In parallel, one pass has ``batch · R`` rows and reads weights and shared keys once. Sequentially, R passes of
    `batch` rows read them R times.
    """
    later = batch * (num_loops - 1)
    passes, rows, reads = (
        (1, batch * num_loops, 1) if execution == "parallel" else (num_loops, batch, num_loops)
    )
    dense = products(shape, rows, num_loops).seconds(gpu) * passes + head(shape, batch).seconds(gpu)
    attention = (
        shared_attention(shape, batch * num_loops, batch * reads, context)
        + window_attention(shape, later)
        + kv_writes(shape, batch * num_loops)
    )
    return dense + attention.seconds(gpu)


def ridge_rows(gpu: Gpu, shape: Shape) -> float:
    """Rows from which a product with weights is bound by FLOPs, not by reading the weights."""
    return gpu.flops / gpu.bandwidth * shape.element_bytes / 2


def free_until(shape: Shape, gpu: Gpu, context: int, limit: float = 1.10, most: int = 1024) -> int | None:
    """Largest batch at which R = 2 in parallel costs at most `limit` times R = 1; None if that is above `most`."""
    for batch in range(1, most + 1):
        two = decode_seconds(shape, gpu, 2, "parallel", batch, context)
        if two > limit * decode_seconds(shape, gpu, 1, "parallel", batch, context):
            return batch - 1
    return None


def prefill_seconds(
    shape: Shape, gpu: Gpu, num_loops: int, tokens: int, from_tail: bool, chunk: int
) -> float:
    """A prompt alone, in chunks of `chunk` rows.

    With `from_tail`, loop l ≥ 1 runs on the last ``(W·L + 1)·(R - l)`` positions only; else on all.
    """
    tail = shape.window * shape.layers + 1
    starts = [0] + [
        max(0, tokens - tail * (num_loops - loop)) if from_tail else 0 for loop in range(1, num_loops)
    ]
    rows = sum(tokens - start for start in starts)
    passes = -(-rows // chunk)
    dense = products(shape, -(-rows // passes), num_loops).seconds(gpu) * passes + head(shape, 1).seconds(gpu)
    # A chunk's rows share one read of the keys before them, so reads are per chunk, and on average half the context.
    pairs = sum((tokens + start + 1) / 2 * (tokens - start) for start in starts)
    attention = shared_attention(shape, pairs / tokens, passes / 2, tokens)
    attention += window_attention(shape, rows - tokens) + kv_writes(shape, rows)
    return dense + attention.seconds(gpu)


def sequences_that_fit(
    shape: Shape, gpu: Gpu, num_loops: int, context: int, contexts_per_sequence: int
) -> int:
    """Sequences of `context` tokens beside the weights, if a sequence keeps the whole context so many times.

    1 is the shared cache (with its windows and carry), R the cache with one context per loop.
    """
    weights = (
        shape.layers * (shape.layer_weights + shape.heads * shape.hidden) + 2 * shape.vocab * shape.hidden
    )
    per_token = shape.kv_elements * shape.element_bytes
    per_sequence = contexts_per_sequence * context * per_token
    if contexts_per_sequence == 1:
        later = num_loops - 1
        per_sequence += later * ((shape.window + 1) * per_token + shape.hidden * shape.element_bytes)
    return int((gpu.memory - weights * shape.element_bytes) // per_sequence)

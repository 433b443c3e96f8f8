"""Bytes and FLOPs of a step, and the time that a device's data sheet allows them. A model, not a measurement.

A step is a chain of kernels that cannot overlap, since each needs the one before. Its time is therefore the sum over
its stages, the products with weights, the attention and what ranks exchange, of ``max(bytes / bandwidth, FLOPs /
peak)`` (Williams, Waterman, Patterson: Roofline, CACM 2009), where a stage's bytes include its activations.

The shape given to `products`, `head` and the attention is what one rank holds; `Deployment` shares a model out.
"""

from dataclasses import dataclass

from engine.options import Execution
from planning.devices import Device
from planning.errors import PlanError
from planning.shape import Shape
from scheduler.loop_layout import LoopLayout

LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage moves and computes."""

    bytes: float
    flops: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, count: float) -> "Cost":
        return Cost(count * self.bytes, count * self.flops)

    def seconds(self, device: Device) -> float:
        return max(self.bytes / device.bandwidth, self.flops / device.flops)

    def is_bound_by_memory(self, device: Device) -> bool:
        return self.bytes / device.bandwidth >= self.flops / device.flops


def products(shape: Shape, rows: int, num_loops: int) -> Cost:
    """One pass of `rows` rows through all layers: weights once, and each row's activations.

    Per layer a row's activations are written and read once between kernels: the residual twice, the normed input of
    both halves, q, k, v, the attention's output, gate, up and their product.
    """
    gate = shape.gate_weights if num_loops > 1 else 0
    q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    activations = 6 * shape.hidden + 2 * q_width + 2 * kv_width + 3 * shape.intermediate
    moved = shape.layer_bytes * shape.layer_weights + shape.activation_bytes * (gate + 2 * rows * activations)
    return Cost(moved, 2 * rows * (shape.layer_weights + gate)).times(shape.layers)


def head(shape: Shape, rows: int) -> Cost:
    """Logits of `rows` rows, written in float32."""
    weights = shape.vocab * shape.hidden
    moved = shape.head_bytes * weights + shape.activation_bytes * rows * shape.hidden
    return Cost(moved + LOGIT_BYTES * rows * shape.vocab, 2 * rows * weights)


def context_attention(shape: Shape, queries: float, reads: float, context: float) -> Cost:
    """`queries` rows over `context` keys that are read `reads` times from memory, all layers."""
    per_key = shape.kv_elements * shape.cache_bytes
    return Cost(
        reads * context * per_key, queries * context * 4 * shape.layers * shape.heads * shape.head_dim
    )


def window_attention(shape: Shape, rows: float) -> Cost:
    """`rows` rows of later loops, each over its own W + 1 keys, where there are windows."""
    if not shape.has_windows:
        return Cost(0, 0)
    return context_attention(shape, rows, rows, shape.window + 1)


def kv_writes(shape: Shape, rows: float) -> Cost:
    """Keys and values of `rows` rows."""
    return Cost(rows * shape.kv_elements * shape.cache_bytes, 0)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step, or of a prompt's, by stage, and which of the two times each stage takes."""

    products: float
    attention: float
    exchange: float
    products_wait_for_memory: bool
    attention_waits_for_memory: bool

    @property
    def seconds(self) -> float:
        return self.products + self.attention + self.exchange

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        longest = max(self.products, self.attention, self.exchange)
        if longest == self.products:
            return "reading weights" if self.products_wait_for_memory else "arithmetic of the products"
        if longest == self.attention:
            return "reading the cache" if self.attention_waits_for_memory else "arithmetic of the attention"
        return "exchange between ranks"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on one device, or shared out over `ranks` equal ones.

    Attributes:
        shape: of the whole model.
    """

    shape: Shape
    device: Device
    ranks: int = 1

    def decode(self, num_loops: int, execution: Execution, batch: int, context: int) -> StepTime:
        """One token for each of `batch` sequences that have `context` tokens.

        In parallel, one pass has ``batch · R`` rows and reads weights and shared keys once. Sequentially, R passes of
        `batch` rows read them R times; with an offset of 0 nothing else is possible. Loops with contexts of their own
        read R of them either way.
        """
        part, later = self.shape.split(self.ranks), batch * (num_loops - 1)
        in_one_pass = execution == "parallel" and self.shape.offset > 0
        passes, rows = (1, batch * num_loops) if in_one_pass else (num_loops, batch)
        reads = passes if part.has_windows else num_loops
        attention = (
            context_attention(part, batch * num_loops, batch * reads, context)
            + window_attention(part, later)
            + kv_writes(part, batch * num_loops)
        )
        return self._time(products(part, rows, num_loops), passes, attention, rows * passes, batch)

    def prefill(self, num_loops: int, tokens: int, from_tail: bool, chunk: int) -> StepTime:
        """A prompt alone, in chunks of `chunk` rows.

        With `from_tail`, loop l ≥ 1 runs on the prompt's tail only (`LoopLayout.tail_starts`); else on all of it.
        """
        part = self.shape.split(self.ranks)
        layout = LoopLayout(num_loops, part.offset, part.window, part.layers, 1, part.cache)
        starts = layout.tail_starts(tokens) if from_tail else (0,) * num_loops
        rows = sum(tokens - start for start in starts)
        passes = -(-rows // chunk)
        # A chunk's rows share one read of the keys before them: reads are per chunk, on average of half the context.
        pairs = sum((tokens + start + 1) / 2 * (tokens - start) for start in starts)
        attention = context_attention(part, pairs / tokens, passes / 2, tokens)
        attention += window_attention(part, rows - tokens) + kv_writes(part, rows)
        return self._time(products(part, -(-rows // passes), num_loops), passes, attention, rows, 1)

    def _time(self, one_pass: Cost, passes: int, attention: Cost, rows: int, logits: int) -> StepTime:
        """A step of so many equal passes, of `rows` rows in all, that ends with `logits` rows of logits."""
        device = self.device
        logit_cost = head(self.shape.split(self.ranks), logits)
        return StepTime(
            products=one_pass.seconds(device) * passes + logit_cost.seconds(device),
            attention=attention.seconds(device),
            exchange=self._exchange_seconds(rows, logits),
            products_wait_for_memory=one_pass.is_bound_by_memory(device),
            attention_waits_for_memory=attention.is_bound_by_memory(device),
        )

    def _exchange_seconds(self, rows: int, logits: int) -> float:
        """Two sums over the ranks per layer, as rings, and one gather of logits. Without the links' latency."""
        if self.ranks == 1:
            return 0.0
        if self.device.link is None:
            raise PlanError(f"--tensor-parallel-size {self.ranks} needs --link, GB/s from one GPU to another")
        shape, share = self.shape, (self.ranks - 1) / self.ranks
        sums = 2 * shape.layers * 2 * share * rows * shape.hidden * shape.activation_bytes
        return (sums + share * logits * shape.vocab * LOGIT_BYTES) / self.device.link


def decode_seconds(
    shape: Shape, device: Device, num_loops: int, execution: Execution, batch: int, context: int
) -> float:
    """`Deployment.decode` on one device, in seconds."""
    return Deployment(shape, device).decode(num_loops, execution, batch, context).seconds


def prefill_seconds(
    shape: Shape, device: Device, num_loops: int, tokens: int, from_tail: bool, chunk: int
) -> float:
    """`Deployment.prefill` on one device, in seconds."""
    return Deployment(shape, device).prefill(num_loops, tokens, from_tail, chunk).seconds


def ridge_rows(device: Device, shape: Shape) -> float:
    """Rows from which a product with weights is bound by FLOPs, not by reading the weights."""
    return device.flops / device.bandwidth * shape.layer_bytes / 2


def free_until(
    deployment: Deployment, num_loops: int, context: int, limit: float = 1.10, most: int = 1024
) -> int | None:
    """Largest batch at which R loops in parallel cost at most `limit` times one loop; None if that is above `most`."""
    for batch in range(1, most + 1):
        looped = deployment.decode(num_loops, "parallel", batch, context).seconds
        if looped > limit * deployment.decode(1, "parallel", batch, context).seconds:
            return batch - 1
    return None

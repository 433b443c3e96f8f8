"""How many sequences of a length fit beside the weights, by the engine's own block arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from engine.config import ModelConfig
from engine.kv_arithmetic import (
    FREE_MEMORY_SHARE,
    block_bytes,
    carry_bytes_per_sequence,
    context_bytes_per_token,
    layout_of,
    one_loop_bytes_per_token,
    sequential_bytes_per_token,
    window_bytes_per_sequence,
)
from engine.weight_arithmetic import weight_bytes
from planning.devices import Device
from planning.errors import PlanError
from planning.formats import Formats
from scheduler.loop_layout import LoopLayout

Layout = Literal["shared", "sequential", "one_loop"]
LAYOUTS: tuple[Layout, ...] = ("shared", "sequential", "one_loop")
"""As it is served; every loop keeps the whole context, which for some models is how they are served; a model without
loops."""


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """As the options of `loopserve serve`.

    Attributes:
        memory: bytes for the pool, of all ranks together; None takes the engine's share of what the weights leave.
    """

    block_size: int = 16
    max_rows_per_step: int = 1024
    prefix_caching: bool = True
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes and sequences. Of all ranks together, unless said.

    Attributes:
        weights_per_rank: with the embedding, which every rank has whole.
        cache_per_rank: what the pool may take; 0 if the weights don't fit.
        kv_per_token: by layout.
        kv_per_sequence: at the context asked for, with windows, carry and what blocks round up.
        fitting: sequences of that context that fit, by layout.
    """

    device_memory: int
    ranks: int
    weights_per_rank: int
    cache_per_rank: int
    windows_and_carry: int
    kv_per_token: Mapping[Layout, int]
    kv_per_sequence: Mapping[Layout, int]
    fitting: Mapping[Layout, int]


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The memory of a model on `ranks` equal devices."""

    config: ModelConfig
    formats: Formats
    device: Device
    ranks: int
    options: CacheOptions

    def plan(self, context: int) -> MemoryPlan:
        """With sequences of `context` tokens."""
        config, formats = self.config, self.formats
        per_token, sequential = (
            bytes_of(config, formats.cache_bytes)
            for bytes_of in (context_bytes_per_token, sequential_bytes_per_token)
        )
        one_loop = one_loop_bytes_per_token(config, formats.cache_bytes)
        tokens = -(-context // self.options.block_size) * self.options.block_size
        extra = window_bytes_per_sequence(config, formats.cache_bytes)
        extra += carry_bytes_per_sequence(config, formats.activation_bytes)
        return MemoryPlan(
            device_memory=int(self.device.memory),
            ranks=self.ranks,
            weights_per_rank=self.weights_per_rank,
            cache_per_rank=self.cache_per_rank,
            windows_and_carry=extra,
            kv_per_token={"shared": per_token, "sequential": sequential, "one_loop": one_loop},
            kv_per_sequence={
                "shared": self._steady_blocks(context) * self.block_bytes * self.ranks
                + carry_bytes_per_sequence(config, formats.activation_bytes),
                "sequential": tokens * sequential,
                "one_loop": tokens * one_loop,
            },
            fitting={layout: self.fitting(context, layout) for layout in LAYOUTS},
        )

    @property
    def weights_per_rank(self) -> int:
        """Bytes."""
        parts = weight_bytes(self.config, self.formats.weight_bytes, self.formats.layer_bits)
        copies = parts.head or (parts.embedding if self.formats.own_head or self.ranks > 1 else 0)
        return parts.embedding + (copies + parts.layers) // self.ranks

    @property
    def cache_per_rank(self) -> int:
        """Bytes that the pool may take on each rank."""
        left = self.device.memory - self.weights_per_rank
        if self.options.memory is not None:
            each = self.options.memory // self.ranks
            return each if each <= left else 0
        return max(0, int(left * FREE_MEMORY_SHARE["cpu" if self.device.is_cpu else "cuda"]))

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool."""
        return self.cache_per_rank // self.block_bytes

    def fitting(self, context: int, layout: Layout) -> int:
        """Sequences that fit.

        Shared: while one more is in its prefill, in chunks of all rows, the others decode, and the scheduler keeps R
        blocks free for each of them. The other layouts, which nobody runs here, are let off that.
        """
        per_token = self._block_bytes_without_h // self.options.block_size
        if layout != "shared":
            loops = self.config.loops.num_loops if layout == "sequential" else 1
            tokens = -(-context // self.options.block_size) * self.options.block_size
            return self.cache_per_rank // (loops * tokens * per_token)
        blocks = self.num_blocks
        entering = self._layout.blocks_for(context, self.options.max_rows_per_step)
        if blocks < entering:
            return 0
        return 1 + (blocks - entering) // (self._steady_blocks(context) + self._layout.num_loops)

    def _steady_blocks(self, context: int) -> int:
        """Of a sequence that decodes."""
        return self._layout.blocks_for(context, 1)

    @property
    def _rank_config(self) -> ModelConfig:
        return replace(self.config, num_kv_heads=self.config.num_kv_heads // self.ranks)

    @property
    def block_bytes(self) -> int:
        """On one rank."""
        options, formats = self.options, self.formats
        return block_bytes(
            self._rank_config,
            options.block_size,
            options.prefix_caching,
            formats.cache_bytes,
            formats.activation_bytes,
        )

    @property
    def _block_bytes_without_h(self) -> int:
        return self.options.block_size * one_loop_bytes_per_token(self._rank_config, self.formats.cache_bytes)

    @property
    def _layout(self) -> LoopLayout:
        return layout_of(self.config, self.options.block_size)


def check_ranks(config: ModelConfig, ranks: int) -> None:
    """See whether the model can be shared out (`engine.tensor_parallel.check_divisible`).

    Raises:
        PlanError: it can't.
    """
    if config.num_kv_heads % ranks or config.intermediate_size % ranks:
        raise PlanError(
            f"--tensor-parallel-size {ranks} must divide the model's {config.num_kv_heads} KV heads and its "
            f"intermediate_size {config.intermediate_size}"
        )

"""Owns the tensors that outlive a step, and computes step plans."""

from dataclasses import dataclass

import torch

from engine import kv_arithmetic
from engine.config import ModelConfig
from engine.decode_graphs import Capture, DecodeGraphs, DecodeLimits
from engine.followers import Followers
from engine.model import LoopedModel, ModelState
from engine.placement import Placement
from engine.row_batch import BatchFormat, LogitRow, build_row_batch
from engine.staging import Staging
from engine.tap import Tap
from kernels.interface import LayerCache, RowBatch
from scheduler.loop_layout import LoopLayout
from scheduler.step_plan import CarryRestore, StepPlan


@dataclass(frozen=True, slots=True)
class StepLogits:
    """Logits a step produced: float32 ``[len(rows), vocab]`` on the model's device."""

    rows: list[LogitRow]
    logits: torch.Tensor


class ModelRunner:
    """The model, and the paged cache, carries and snapshots that its passes share.

    Of a model that is split, one rank's part; the first rank's runner also drives the `followers`.
    """

    def __init__(
        self,
        model: LoopedModel,
        layout: LoopLayout,
        state: ModelState,
        device: torch.device,
        followers: Followers,
    ) -> None:
        self.model = model
        self.layout = layout
        self.state = state
        config, kernels = model.config, model.kernels
        group = config.num_heads // config.num_kv_heads
        self.format = BatchFormat(
            config.loops.window,
            kernels.tiling(config.head_dim, group, layout.num_windows + 1, state.carries.dtype),
            keeps_snapshots=len(state.block_hidden) > 1,
        )
        self.staging = Staging(device)
        self.followers = followers
        self.graphs: DecodeGraphs | None = None

    @torch.inference_mode()
    def capture_graphs(self, limits: DecodeLimits, capture: Capture) -> None:
        """Make decode steps run as graphs. The cache and the carries are not changed."""
        self.graphs = DecodeGraphs(limits, self.staging, self._run_layers, capture)

    def run(self, step: StepPlan, tap: Tap | None = None) -> StepLogits:
        """Compute a non-empty plan: one pass of the model over all its rows.

        Args:
            tap: is shown this rank's part of it; row r is that of the plan's segments, one after another.

        Raises:
            EngineDeadError: another rank was lost.
        """
        batch, logit_rows = build_row_batch(step, self.layout, self.format)
        self.followers.compute(batch, step.restores)
        return StepLogits(logit_rows, self.compute(batch, step.restores, tap))

    @torch.inference_mode()
    def compute(self, batch: RowBatch, restores: list[CarryRestore], tap: Tap | None = None) -> torch.Tensor:
        """This rank's part of a pass.

        Args:
            batch: on the host.
            tap: is shown it.

        Returns:
            float32 ``[wanted, vocab]`` logits of the batch's `logit_rows`; on a follower of no use.
        """
        for restore in restores:
            self.state.carries[restore.slot] = self.state.block_hidden[restore.block]
        wanted = None if self.graphs is None or tap is not None else self.graphs.run(batch)
        if wanted is None:
            batch = self.staging.upload(batch)
            wanted = self.model.run_layers(batch, self.state, tap)[batch.logit_rows]
        return self.model.logits(wanted)

    @torch.inference_mode()
    def write_blocks(self, blocks: list[int]) -> None:
        """Write small numbers into cache blocks that no sequence holds, on all ranks, so that they are real memory.

        Raises:
            EngineDeadError: another rank was lost.
        """
        self.followers.write_blocks(blocks)
        chosen = torch.tensor(blocks, device=self.staging.device)
        for cache in self.state.caches:
            for part in (cache.keys, cache.values):
                part[chosen] = _small_numbers(part[:1])

    def _run_layers(self, batch: RowBatch) -> torch.Tensor:
        return self.model.run_layers(batch, self.state)


def _small_numbers(like: torch.Tensor) -> torch.Tensor:
    """Of the same shape, dtype and device; bytes are e4m3, where those from 16 to 47 are 2⁻⁵ to about 1/2."""
    if like.dtype == torch.uint8:
        return torch.randint_like(like, 16, 48)
    return torch.empty_like(like).uniform_(-0.5, 0.5)


def make_state(
    config: ModelConfig,
    placement: Placement,
    block_size: int,
    num_blocks: int,
    num_carry_slots: int,
    prefix_caching: bool,
) -> ModelState:
    """Allocate, all zero, with the spill row that `ModelState` speaks of."""
    shape = (num_blocks + 1, config.num_kv_heads, block_size, config.head_dim)
    device = placement.device

    def layer_cache() -> LayerCache:
        keys, values = (torch.zeros(shape, dtype=placement.cache_dtype, device=device) for _ in range(2))
        if placement.cache_dtype != torch.uint8:
            return LayerCache(keys, values)
        key_scales, value_scales = (torch.ones(config.num_kv_heads, device=device) for _ in range(2))
        return LayerCache(keys, values, key_scales, value_scales)

    snapshots = num_blocks if prefix_caching and config.loops.num_loops > 1 else 0
    return ModelState(
        [layer_cache() for _ in range(config.num_layers)],
        torch.zeros(num_carry_slots + 2, config.hidden_size, dtype=placement.dtype, device=device),
        torch.zeros(snapshots + 1, config.hidden_size, dtype=placement.dtype, device=device),
    )


def block_bytes(config: ModelConfig, placement: Placement, block_size: int, prefix_caching: bool) -> int:
    """Bytes of one cache block where it is placed."""
    element, hidden = placement.cache_dtype.itemsize, placement.dtype.itemsize
    return kv_arithmetic.block_bytes(config, block_size, prefix_caching, element, hidden)

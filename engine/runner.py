"""Owns the tensors that outlive a step, and computes step plans."""

from dataclasses import dataclass

import torch

from engine.config import ModelConfig
from engine.model import LoopedModel, RowInputs
from engine.row_batch import LogitRow, build_row_batch
from kernels.interface import LayerCache
from scheduler.loop_layout import LoopLayout
from scheduler.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class StepLogits:
    """Logits a step produced: float32 ``[len(rows), vocab]``."""

    rows: list[LogitRow]
    logits: torch.Tensor


class ModelRunner:
    """The paged cache, the carry pool and the model.

    Attributes:
        caches: keys and values per layer.
        carries: ``[slots + 1, hidden]``: H vectors on their way between loops; slot 0 stays zero.
        block_hidden: ``[num_blocks, hidden]``: H at each block's last position, for prefix caching.
    """

    def __init__(
        self,
        model: LoopedModel,
        layout: LoopLayout,
        num_blocks: int,
        num_carry_slots: int,
        prefix_caching: bool,
    ) -> None:
        self.model = model
        self.layout = layout
        config = model.config
        shape = (num_blocks, config.num_kv_heads, layout.block_size, config.head_dim)
        self.caches = [LayerCache(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_layers)]
        self.carries = torch.zeros(num_carry_slots + 1, config.hidden_size)
        keeps_hidden = prefix_caching and layout.num_loops > 1
        self.block_hidden = torch.zeros(num_blocks if keeps_hidden else 0, config.hidden_size)

    @torch.inference_mode()
    def run(self, step: StepPlan) -> StepLogits:
        """Compute a non-empty plan: one pass of the model over all its rows."""
        batch = build_row_batch(step, self.layout, self.model.config.loops.window)
        for restore in step.restores:
            self.carries[restore.slot] = self.block_hidden[restore.block]
        inputs = RowInputs(
            batch.token_ids, batch.positions, batch.later_rows, self.carries[batch.later_slots]
        )
        x = self.model.forward(inputs, batch.attention, self.caches)
        self.carries[batch.output_slots] = self.model.next_loop_hidden(x[batch.output_rows])
        if len(self.block_hidden):
            self.block_hidden[batch.snapshot_blocks] = self.model.next_loop_hidden(x[batch.snapshot_rows])
        wanted = torch.tensor([row.row for row in batch.logit_rows], dtype=torch.int64)
        return StepLogits(batch.logit_rows, self.model.logits(x[wanted]))


def block_bytes(config: ModelConfig, block_size: int, prefix_caching: bool) -> int:
    """Bytes of one cache block: K and V of all layers, and the H beside it."""
    elements = 2 * config.num_layers * config.num_kv_heads * config.head_dim * block_size
    if prefix_caching and config.loops.num_loops > 1:
        elements += config.hidden_size
    return elements * torch.float32.itemsize

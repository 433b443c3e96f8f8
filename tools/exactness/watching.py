"""The engine's core as it is, with its memory poisoned and a diary of what happened to each request."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from engine.core import EngineCore
from engine.loading import LoadedModel
from engine.messages import RequestOutput
from engine.model import ModelState
from engine.runner import ModelRunner, StepLogits
from engine.tap import Tap
from scheduler.block_pool import BlockKey
from scheduler.sequence import Sequence
from scheduler.step_plan import StepPlan
from tools.simulation.memory import Poisonable, PoisoningBlockPool, PoisoningCarryPool


class PoisonedState:
    """The tensors that outlive a pass. Whatever belongs to nobody, or was never written, is NaN.

    Only slot 0 of the carries, the zero vector of position -1, is left as it is.
    """

    def __init__(self, state: ModelState) -> None:
        self.state = state
        for cache in state.caches:
            cache.keys.fill_(torch.nan)
            cache.values.fill_(torch.nan)
        state.carries[1:] = torch.nan
        state.block_hidden.fill_(torch.nan)

    def poison_block(self, block: int) -> None:
        for cache in self.state.caches:
            cache.keys[block] = torch.nan
            cache.values[block] = torch.nan
        if block < len(self.state.block_hidden):
            self.state.block_hidden[block] = torch.nan

    def poison_slot(self, slot: int) -> None:
        self.state.carries[slot] = torch.nan


class RememberingBlockPool(PoisoningBlockPool):
    """Also knows what has ever been in the prefix cache.

    Attributes:
        ever: keys that were registered.
    """

    def __init__(self, num_blocks: int, memory: Poisonable) -> None:
        super().__init__(num_blocks, memory)
        self.ever: set[BlockKey] = set()

    def register(self, block: int, key: BlockKey, tenant: str) -> None:
        super().register(block, key, tenant)
        self.ever.add(key)


@dataclass(slots=True)
class Story:
    """What one request got, and what happened to it.

    Attributes:
        logits: float32 ``[vocab]`` behind each sampled token, and behind the last prompt token if none is sampled.
        chunks: passes with loop 0's rows since it was last admitted, until its next token.
        in_company: passes that also held other requests' rows.
        forgotten: a block that it could have found had been in the prefix cache, but was evicted.
        abandoned: neighbours that were aborted while it ran.
    """

    outputs: list[RequestOutput] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    chunks: int = 0
    most_chunks: int = 0
    in_company: int = 0
    preemptions: int = 0
    found: bool = False
    restored: bool = False
    recomputed: bool = False
    forgotten: bool = False
    abandoned: int = 0

    @property
    def tokens(self) -> list[int]:
        return [token for output in self.outputs for token in output.token_ids]

    @property
    def ended(self) -> bool:
        return bool(self.outputs) and self.outputs[-1].finish_reason is not None


class WatchedRunner(ModelRunner):
    """`ModelRunner` that keeps logits and notes what its plans say.

    Attributes:
        stories: by request id.
        most_rows: of a pass.
    """

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner.model, runner.layout, runner.state, runner.staging.device, runner.followers)
        self.stories: dict[str, Story] = {}
        self.most_rows = 0
        self.ever: set[BlockKey] = set()

    def run(self, step: StepPlan, tap: Tap | None = None) -> StepLogits:
        self._note(step)
        result = super().run(step, tap)
        for index, row in enumerate(result.rows):
            if row.is_last_loop and row.position == len(row.sequence) - 1:
                story = self.stories[row.sequence.sequence_id]
                story.logits.append(result.logits[index].numpy().copy())
                story.chunks = 0
        return result

    def _note(self, step: StepPlan) -> None:
        self.most_rows = max(self.most_rows, step.num_rows)
        for sequence in step.preempted:
            self.stories[sequence.sequence_id].preemptions += 1
        for sequence in step.admitted:
            self._note_start(sequence)
        present = {segment.sequence.sequence_id for segment in step.segments}
        for name in present:
            self.stories[name].in_company += len(present) > 1
        for segment in step.segments:
            if segment.loop == 0:
                story = self.stories[segment.sequence.sequence_id]
                story.chunks += 1
                story.most_chunks = max(story.most_chunks, story.chunks)

    def _note_start(self, sequence: Sequence) -> None:
        story, plan = self.stories[sequence.sequence_id], sequence.plan
        assert plan is not None
        story.chunks = 0
        story.found |= plan.shared_hit > 0
        story.restored |= plan.restored is not None
        story.recomputed |= plan.shared_hit > 0 and plan.restored is None
        following = plan.shared_hit // sequence.layout.block_size
        if following < len(sequence.keys):
            story.forgotten |= (sequence.keys[following], 0) in self.ever


def watched(model: LoadedModel, poisoned: bool) -> tuple[EngineCore, WatchedRunner]:
    """An engine over a loaded model.

    Args:
        poisoned: its memory is NaN wherever it belongs to nobody; otherwise as a fresh engine's.
    """
    runner, scheduler = WatchedRunner(model.runner), model.scheduler
    if poisoned:
        memory = PoisonedState(runner.state)
        pool = RememberingBlockPool(scheduler.blocks.num_blocks, memory)
        scheduler.blocks = scheduler.cache.blocks = pool
        scheduler.carries = scheduler.cache.carries = PoisoningCarryPool(scheduler.carries.capacity, memory)
        runner.ever = pool.ever
    return EngineCore(replace(model, runner=runner)), runner

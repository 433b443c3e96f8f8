"""The model of hashes where the engine expects a model: the real runner with another `compute`."""

from collections.abc import Callable
from functools import cache
from hashlib import blake2b

import numpy as np
import torch

from engine.core import EngineCore
from engine.followers import Followers
from engine.loading import LoadedModel
from engine.messages import PROTOCOL_VERSION, EngineReady
from engine.row_batch import BatchFormat
from engine.runner import ModelRunner, StepLogits
from engine.staging import Staging
from engine.tap import Tap
from kernels.interface import RowBatch, Tiling
from scheduler.carry_pool import required_capacity
from scheduler.scheduler import Scheduler
from scheduler.step_plan import CarryRestore, StepPlan
from tools.simulation.arithmetic import hash_pass
from tools.simulation.curses import CursedCore, Curses
from tools.simulation.memory import Memory, PoisoningBlockPool, PoisoningCarryPool
from tools.simulation.setting import VOCAB_SIZE, Setting

KINDS_OF_LOGITS = 4096
"""Power of two. H chooses one of so many rows of logits."""

LOGITS = 3 * torch.randn(KINDS_OF_LOGITS, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
"""What a head could give: every row has other numbers, so log-probabilities tell rows apart, too."""

Fault = Callable[[list[str], str], None]
"""Called with the ids of a pass's sequences "before a pass" and "after a pass"; may raise."""


@cache
def world_of(tenant: str, salt: str) -> int:
    """64 bits that the embeddings depend on, so that whoever gets another's context gets other tokens."""
    return int.from_bytes(blake2b(f"{len(tenant)} {tenant}{salt}".encode(), digest_size=8).digest(), "little")


class HashRunner(ModelRunner):
    """`ModelRunner.run` as it is, over hashes.

    Attributes:
        fault: called before a pass has changed anything and again when it has changed everything.
        worlds: of the current step's rows, see `arithmetic.embed`.
        names: of its sequences.
        restored: sequences begun by restoring. recomputed: by recomputing a found prompt's tail.
    """

    def __init__(self, setting: Setting, memory: Memory, fault: Fault) -> None:
        self.layout = setting.layout
        self.memory = memory
        self.fault = fault
        self.format = BatchFormat(
            setting.layout.window,
            Tiling(setting.tile_rows),
            keeps_snapshots=setting.limits.prefix_caching and setting.layout.num_loops > 1,
        )
        self.staging = Staging(torch.device("cpu"))
        self.followers = Followers()
        self.graphs = None
        self.worlds = np.zeros(0, np.uint64)
        self.names: list[str] = []
        self.restored = 0
        self.recomputed = 0

    def run(self, step: StepPlan, tap: Tap | None = None) -> StepLogits:
        segments = step.segments
        self.names = [sequence.sequence_id for sequence in step.sequences]
        self.worlds = np.repeat(
            np.array([world_of(s.sequence.tenant, s.sequence.cache_salt) for s in segments], np.uint64),
            [s.num_rows for s in segments],
        )
        for plan in (sequence.plan for sequence in step.admitted):
            assert plan is not None
            self.restored += plan.restored is not None
            self.recomputed += plan.restored is None and plan.shared_hit > 0
        return super().run(step, tap)

    def compute(self, batch: RowBatch, restores: list[CarryRestore], tap: Tap | None = None) -> torch.Tensor:
        memory = self.memory
        self.fault(self.names, "before a pass")
        for restore in restores:
            memory.carries[restore.slot] = memory.block_hidden[restore.block]
        hidden = hash_pass(
            memory.cache,
            memory.carries,
            memory.block_hidden,
            self.worlds,
            batch.token_ids.numpy(),
            batch.positions.numpy(),
            batch.loops.numpy(),
            batch.windows.numpy(),
            batch.input_slots.numpy(),
            batch.output_slots.numpy(),
            batch.snapshot_blocks.numpy(),
            batch.cache_slots.numpy(),
            batch.tiles.numpy(),
            batch.context_tables.numpy(),
            batch.window_tables.numpy(),
            batch.window_first.numpy(),
            batch.window_floor.numpy(),
            batch.window,
        )
        try:
            self.fault(self.names, "after a pass")
        except BaseException:
            memory.ruin(batch, restores)
            raise
        wanted = hidden[batch.logit_rows.numpy()] & np.uint64(KINDS_OF_LOGITS - 1)
        return LOGITS.index_select(0, torch.from_numpy(wanted.astype(np.int64)))


def make_core(setting: Setting, fault: Fault, curses: Curses) -> tuple[EngineCore, Memory]:
    """A fresh engine, as after a start of its process."""
    layout, limits = setting.layout, setting.limits
    num_slots = required_capacity(layout.num_loops, limits.max_num_seqs, limits.max_rows)
    memory = Memory(layout, setting.num_blocks, num_slots)
    scheduler = Scheduler(layout, limits, setting.num_blocks)
    scheduler.blocks = scheduler.cache.blocks = PoisoningBlockPool(setting.num_blocks, memory)
    scheduler.carries = scheduler.cache.carries = PoisoningCarryPool(num_slots, memory)
    ready = EngineReady(
        protocol_version=PROTOCOL_VERSION,
        max_model_len=setting.max_model_len,
        vocab_size=VOCAB_SIZE,
        num_parameters=1,
        num_loops=layout.num_loops,
        num_blocks=setting.num_blocks,
        block_size=layout.block_size,
        execution=limits.execution,
        kv_bytes_per_token=1,
        kv_bytes_per_token_sequential=1,
        kv_bytes_per_sequence=1,
    )
    model = LoadedModel(
        setting.model_config, HashRunner(setting, memory, fault), scheduler, setting.max_model_len, ready
    )
    core = CursedCore(model)
    core.curses = curses
    return core, memory

"""What one episode runs under: the shape of the model, the size of the pool, the limits of a step."""

import random
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

from engine.config import LoopSpec, ModelConfig
from engine.rope_scaling import RopeScaling
from scheduler.loop_layout import LoopCache, LoopLayout
from scheduler.scheduler import SchedulerLimits

VOCAB_SIZE = 256
WINDOWS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 64)
SHORT_WINDOWS = (1, 2, 3, 4)
BLOCK_SIZES = (1, 2, 3, 4, 5, 8, 16, 32)
SMALL_BLOCKS = (1, 2, 3, 4)
CACHES = (LoopCache.WINDOW, LoopCache.WINDOW, LoopCache.OWN)
TENANTS = (("",), ("",), ("a", "b"), ("", "a", "a", "a", "a", "ab"))
"""Whose requests come, each name as often as it stands there; with salts behind them, some names could be confused."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One draw.

    Attributes:
        max_model_len: most tokens of a sequence; fits the pool.
        arrivals: mean arrivals per turn while it's busy.
        max_prompt: most tokens of a prompt.
        answer_share: of a sequence's length that an answer may take.
        special_share: of the requests that want prompt logprobs; as many want loop logprobs.
        abort_share: share of the requests that are given up at some time.
        fault_every: mean passes between two failures of the model.
        tenants: one is drawn for each request; all of them ask for the same texts.
        curse_share: share of the requests that break the engine's work for them at some time.
        hiccup_every: mean passes between two errors that don't come again.
    """

    layout: LoopLayout
    limits: SchedulerLimits
    num_blocks: int
    max_model_len: int
    tile_rows: int
    arrivals: float
    max_prompt: int
    answer_share: float
    special_share: float
    abort_share: float
    fault_every: int
    steps: int
    tenants: tuple[str, ...]
    curse_share: float
    hiccup_every: int

    @classmethod
    def draw(cls, rng: random.Random) -> "Setting":
        """Extremes are as likely as the middle; in every other setting, short prompts outgrow a tight pool."""
        tight = rng.random() < 0.5
        layout = LoopLayout(
            num_loops=rng.randint(1, 4),
            offset=rng.randint(0, 1),
            window=rng.choice(SHORT_WINDOWS if tight else WINDOWS),
            num_layers=rng.randint(1, 3),
            block_size=rng.choice(SMALL_BLOCKS if tight else BLOCK_SIZES),
        )
        limits = _limits(rng, layout, tight)
        max_model_len = rng.choice((24, 40, 56) if tight else (6, 16, 32, 48, 64, 100))
        least = layout.blocks_for(max_model_len, limits.max_rows)
        drawn = cls(
            layout=layout,
            limits=limits,
            num_blocks=least + rng.choice((0, 1, 3) if tight else (0, 3, least // 4, least, 2 * least)),
            max_model_len=max_model_len,
            tile_rows=rng.choice((1, 3, 8)),
            arrivals=rng.choice((0.5, 2.0) if tight else (0.1, 0.5, 2.0, 5.0)),
            max_prompt=rng.choice((2, 8)) if tight else max_model_len,
            answer_share=0.9 if tight else rng.choice((0.1, 0.4, 0.9)),
            special_share=rng.choice((0.02, 0.1, 0.5)),
            abort_share=rng.choice((0.0, 0.2, 0.6)),
            fault_every=rng.choice((200, 1000, 10**9)),
            steps=rng.choice((300, 1000, 2500)),
            tenants=rng.choice(TENANTS),
            curse_share=rng.choice((0.0, 0.03, 0.3)),
            hiccup_every=rng.choice((10, 1000, 10**9)),
        )
        # From a copy, so that the other episodes of a seed are what they were before there was this choice.
        return drawn._with_cache(copy(rng).choice(CACHES))

    def _with_cache(self, cache: LoopCache) -> "Setting":
        """The same with another cache, and as many blocks beyond the least that are needed."""
        layout = replace(self.layout, cache=cache)
        least, needed = (
            each.blocks_for(self.max_model_len, self.limits.max_rows) for each in (self.layout, layout)
        )
        return replace(self, layout=layout, num_blocks=self.num_blocks - least + needed)

    @property
    def model_config(self) -> ModelConfig:
        """As the engine wants it; only the vocabulary and the loops mean anything here."""
        layout = self.layout
        return ModelConfig(
            model_type="hash",
            vocab_size=VOCAB_SIZE,
            hidden_size=1,
            intermediate_size=1,
            num_layers=layout.num_layers,
            num_heads=1,
            num_kv_heads=1,
            head_dim=1,
            max_position_embeddings=self.max_model_len,
            rms_norm_eps=1e-5,
            rope_theta=1e4,
            rope_scaling=RopeScaling(),
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_ids=(),
            pad_token_id=None,
            torch_dtype="float32",
            loops=LoopSpec(
                layout.num_loops, layout.offset, layout.window, 1.0, 1.0, False, True, layout.cache
            ),
        )


def _limits(rng: random.Random, layout: LoopLayout, tight: bool) -> SchedulerLimits:
    max_num_seqs = rng.choice((4, 8) if tight else (1, 2, 3, 4, 8))
    execution: Literal["parallel", "sequential"] = "sequential" if rng.random() < 0.3 else "parallel"
    return SchedulerLimits(
        max_num_seqs=max_num_seqs,
        max_rows=max_num_seqs * layout.num_loops + rng.choice((0, 1, 5) if tight else (0, 1, 5, 16, 48)),
        execution=execution,
        prefix_caching=rng.random() < 0.85,
    )

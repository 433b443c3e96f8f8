"""What one case runs under: a checkpoint, the formats it is served in, and the limits of the crowd's engine."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from engine.loading import LoadedModel, Variant, load_variants
from engine.options import CacheDtypeName, DtypeName, EngineOptions, Quantization
from engine.rank_loading import plan_load
from engine.runner import block_bytes
from tests.family_configs import LOOPS_KEY, TINY, family_config
from tests.make_checkpoint import make_checkpoint, random_config
from tests.oracle import loops_of

DEMO_MODEL = Path(__file__).resolve().parents[2] / "models" / "demo"
DEMO_SHARE = 0.08
FAMILY_SHARE = 0.4  # of the random checkpoints; the others are PLT
PLAIN_SHARE = 0.4  # of the cases, all in float32

HEADS = ((4, 2, 16), (4, 4, 16), (2, 1, 10), (4, 1, 8))
"""(query heads, KV heads, width)"""
Formats = tuple[DtypeName, Quantization, CacheDtypeName]
"""Of weights, of the layers' weights, of the cache."""
FLOAT32: Formats = ("float32", "none", "float32")

SIZES = ((64, 96), (52, 75), (32, 160))
"""(hidden, intermediate)"""
ROPES: tuple[dict[str, Any] | None, ...] = (
    None,
    None,
    {"type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One draw.

    Attributes:
        checkpoint: config of a random checkpoint; None is the demo model.
        weights_seed: of the random checkpoint.
        options: of the crowd's engine; its `model_dir` and `kv_cache_memory` are filled in when it is loaded.
        spare_blocks: blocks of the crowd's pool beyond the fewest that hold one sequence of full length.
        max_prompt: most tokens of a prompt. max_answer: of an answer; together they are a sequence's full length.
        hurry: whether requests come all at once.
        num_requests: that come in all.
        abort_share: of them that are given up.
    """

    checkpoint: dict[str, Any] | None
    weights_seed: int
    options: EngineOptions
    spare_blocks: int
    max_prompt: int
    max_answer: int
    hurry: bool
    num_requests: int
    abort_share: float

    @classmethod
    def draw(cls, rng: random.Random) -> "Setting":
        """Any checkpoint in any format under any limits."""
        demo = rng.random() < DEMO_SHARE
        checkpoint = None if demo else _draw_checkpoint(rng)
        formats = FLOAT32
        if rng.random() >= PLAIN_SHARE:
            formats = (
                rng.choice(("float32", "bfloat16")),
                rng.choice(("none", "none", "int8", "int4")),
                rng.choice(("float32", "bfloat16")),
            )
        block_size = rng.choice((1, 2, 3, 4, 5, 8, 16, 32))
        return cls._under_any_limits(
            rng, checkpoint, rng.getrandbits(32), formats, block_size, 12 if demo else 32
        )

    @classmethod
    def draw_for_seed(cls, rng: random.Random) -> "Setting":
        """Always the same checkpoint, formats and block size, on which a request's bits may depend; any limits."""
        checkpoint = random_config(plt_num_loops=3)
        return cls._under_any_limits(rng, checkpoint, 0, FLOAT32, 4, rng.randint(2, 12))

    @classmethod
    def _under_any_limits(
        cls,
        rng: random.Random,
        checkpoint: dict[str, Any] | None,
        weights_seed: int,
        formats: Formats,
        block_size: int,
        num_requests: int,
    ) -> "Setting":
        """In a third of the draws, short prompts outgrow a tight pool together, so that some are preempted."""
        loops = 2 if checkpoint is None else loops_of(checkpoint).number
        tight = rng.random() < 0.35
        max_num_seqs = rng.choice((4, 6) if tight else (1, 2, 3, 4, 6))
        max_prompt, max_answer = (8, 40) if tight else (rng.choice((24, 60, 120)), rng.choice((6, 16)))
        dtype, quantization, cache_dtype = formats
        options = EngineOptions(
            model_dir="",
            device="cpu",
            threads=1,
            max_model_len=max_prompt + max_answer,
            max_num_seqs=max_num_seqs,
            max_rows_per_step=max_num_seqs * loops + rng.choice((0, 1, 5, 16, 64, 160)),
            block_size=block_size,
            execution="sequential" if rng.random() < 0.25 else "parallel",
            prefix_caching=rng.random() < 0.9,
            dtype=dtype,
            quantization=quantization,
            kv_cache_dtype=cache_dtype,
        )
        return cls(
            checkpoint=checkpoint,
            weights_seed=weights_seed,
            options=options,
            spare_blocks=rng.choice((0, 1, 3) if tight else (0, 4, 30, 100)),
            max_prompt=max_prompt,
            max_answer=max_answer,
            hurry=tight,
            num_requests=num_requests,
            abort_share=rng.choice((0.0, 0.1, 0.4)),
        )

    def load(self, directory: Path, num_alone: int) -> tuple[LoadedModel, list[LoadedModel]]:
        """The crowd's engine and engines of the same weights for one request each, all with caches of their own.

        Args:
            directory: empty; takes the random checkpoint.
        """
        source = DEMO_MODEL
        if self.checkpoint is not None:
            make_checkpoint(directory, self.checkpoint, self.weights_seed)
            source = directory
        options = msgspec.structs.replace(self.options, model_dir=str(source))
        plan = plan_load(options, rank=0)
        assert plan.placement.device == torch.device("cpu")
        assert plan.placement.backend == "cpu"
        least = plan.layout.blocks_for(plan.max_model_len, options.max_rows_per_step)
        size = block_bytes(plan.config, plan.placement, options.block_size, options.prefix_caching)
        crowd = msgspec.structs.replace(options, kv_cache_memory=(least + self.spare_blocks) * size)
        alone = msgspec.structs.replace(
            options,
            max_num_seqs=1,
            max_rows_per_step=plan.layout.num_loops * plan.max_model_len,  # a prompt in one pass
            execution="parallel",
            prefix_caching=False,
        )
        first, *others = load_variants(
            [Variant(options) for options in (crowd, *[alone] * num_alone)], show_progress=False
        )
        return first, others


def _draw_checkpoint(rng: random.Random) -> dict[str, Any]:
    heads, kv_heads, head_dim = rng.choice(HEADS)
    hidden, intermediate = rng.choice(SIZES)
    shape = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": rng.randint(1, 3),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "tie_word_embeddings": rng.random() < 0.3,
        "rope_scaling": rng.choice(ROPES),
    }
    return _draw_family(rng, shape) if rng.random() < FAMILY_SHARE else _draw_plt(rng, shape)


def _draw_family(rng: random.Random, shape: dict[str, Any]) -> dict[str, Any]:
    name = rng.choice(sorted(TINY))
    config = family_config(name, **shape)
    if name in LOOPS_KEY:
        config[LOOPS_KEY[name]] = rng.randint(1, 4)
    choices = {
        "attention_bias": [False, True],
        "mlp_bias": [False, True],
        "loop_window_size": [1, 2, 3, 8, 16, 31],
        "skip_loop_final_norm": [False, True],
    }
    return config | {key: rng.choice(values) for key, values in choices.items() if key in config}


def _draw_plt(rng: random.Random, shape: dict[str, Any]) -> dict[str, Any]:
    normalize = rng.random() < 0.8
    return random_config(
        **shape,
        attention_bias=rng.random() < 0.3,
        mlp_bias=rng.random() < 0.3,
        plt_num_loops=rng.randint(1, 4),
        plt_window_size=[rng.choice((1, 2, 3, 5, 8, 16, 31)), 0],
        plt_clp_shift=rng.choice((0, 1, 1)),
        plt_normalize_per_loop=normalize,
        plt_hidden_scale=0.9 if normalize else 0.2,
        plt_gate_use_hidden_states=rng.random() < 0.5,
    )

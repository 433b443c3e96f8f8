"""Ouro (LoopLM, arXiv 2510.25741): `total_ut_steps` loops, a norm after each, every loop with keys of its own.

Its layers norm what attention and MLP give, too. Its exit gate chooses for each token the loop whose logits count; at
the released threshold of 1 that is always the last, and then the gate's weights are not read.
"""

import re

from engine.config_fields import Fields
from engine.errors import ConfigError
from engine.families.family import MAX_LOOPS, Family, LayerSpec, LoopSpec
from engine.families.sliding_window import SLIDING_WINDOW_KEYS, refuse_sliding_window
from scheduler.loop_layout import LoopCache

DEFAULT_LOOPS = 4


def _loops(fields: Fields) -> LoopSpec:
    threshold = fields.optional_number("early_exit_threshold", 0.0, 1.0)
    if threshold is not None and threshold < 1.0:
        raise ConfigError(
            f"config.json: early_exit_threshold {threshold:g} is not implemented: every token runs all loops. "
            "Set it to 1 with --model-overrides, and take fewer loops with total_ut_steps or a request's `loops`."
        )
    loops = fields.optional_integer("total_ut_steps", 1, MAX_LOOPS)
    return LoopSpec(
        num_loops=DEFAULT_LOOPS if loops is None else loops,
        offset=0,
        window=0,
        emb_scale=0.0,
        hidden_scale=1.0,
        normalize_per_loop=True,
        gate_on_hidden=False,
        cache=LoopCache.OWN,
    )


def _layers(fields: Fields) -> LayerSpec:
    refuse_sliding_window(fields)
    return LayerSpec(sandwich_norms=True)


FAMILY = Family(
    model_types=("ouro",),
    parse_loops=_loops,
    parse_layers=_layers,
    keys=frozenset([*SLIDING_WINDOW_KEYS, "total_ut_steps", "early_exit_threshold"]),
    off={"attention_bias": (None, False), "mlp_bias": (None, False), "early_exit_step": (None,)},
    rope_theta=10_000.0,
    unused_tensors=re.compile(r"model\.early_exit_gate\.(weight|bias)"),
)

"""Qwen3, dense: no loops; each head's query and key are normed before they are rotated."""

from engine.config_fields import Fields
from engine.families.family import Family, LayerSpec, one_loop
from engine.families.sliding_window import SLIDING_WINDOW_KEYS, refuse_sliding_window


def _layers(fields: Fields) -> LayerSpec:
    refuse_sliding_window(fields)
    bias = fields.boolean("attention_bias", False)
    return LayerSpec(attention_bias=bias, output_bias=bias, qk_norm=True)


FAMILY = Family(
    model_types=("qwen3",),
    parse_loops=one_loop,
    parse_layers=_layers,
    keys=frozenset([*SLIDING_WINDOW_KEYS, "attention_bias"]),
    off={"mlp_bias": (None, False)},
    rope_theta=10_000.0,
    head_dim=128,
)

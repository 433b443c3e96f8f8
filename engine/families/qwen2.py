"""Qwen2 and Qwen2.5: no loops; q, k and v always have biases, nothing else has."""

from engine.config_fields import Fields
from engine.families.family import ROTARY_BUFFERS, Family, LayerSpec, one_loop
from engine.families.sliding_window import SLIDING_WINDOW_KEYS, refuse_sliding_window


def _layers(fields: Fields) -> LayerSpec:
    refuse_sliding_window(fields)
    return LayerSpec(attention_bias=True)


FAMILY = Family(
    model_types=("qwen2",),
    parse_loops=one_loop,
    parse_layers=_layers,
    keys=frozenset(SLIDING_WINDOW_KEYS),
    off={"mlp_bias": (None, False)},
    rope_theta=10_000.0,
    unused_tensors=ROTARY_BUFFERS,
)

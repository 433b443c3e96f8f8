"""IQuest-Coder-V1 without loops: Llama by another name, with switches that its released models leave off."""

from engine.config_fields import Fields
from engine.families.family import Family, LayerSpec, llama_layers, one_loop
from engine.families.sliding_window import SLIDING_WINDOW_KEYS, refuse_sliding_window


def _layers(fields: Fields) -> LayerSpec:
    refuse_sliding_window(fields)
    return llama_layers(fields)


FAMILY = Family(
    model_types=("iquestcoder",),
    parse_loops=one_loop,
    parse_layers=_layers,
    keys=frozenset([*SLIDING_WINDOW_KEYS, "attention_bias", "mlp_bias"]),
    off={"clip_qkv": (None,)},
    rope_theta=500_000.0,
    head_dim=128,
)

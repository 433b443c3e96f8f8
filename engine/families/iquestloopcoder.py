"""IQuest-Coder-V1-40B-Loop: a later loop starts from the previous one's state at the same position, without a norm.

Its local window is counted with the token itself: `loop_window_size` keys. The gate reads the rotated query.
"""

import re

from engine.config_fields import Fields
from engine.families.family import MAX_LOOPS, MAX_WINDOW, Family, LoopSpec, llama_layers

DEFAULT_LOOPS = 2
DEFAULT_WINDOW_SIZE = 64


def _loops(fields: Fields) -> LoopSpec:
    loops = fields.optional_integer("loop_num", 1, MAX_LOOPS)
    size = fields.optional_integer("loop_window_size", 1, MAX_WINDOW)
    return LoopSpec(
        num_loops=DEFAULT_LOOPS if loops is None else loops,
        offset=0,
        window=(DEFAULT_WINDOW_SIZE if size is None else size) - 1,
        emb_scale=0.0,
        hidden_scale=1.0,
        normalize_per_loop=False,
        gate_on_hidden=False,
    )


FAMILY = Family(
    model_types=("iquestloopcoder",),
    parse_loops=_loops,
    parse_layers=llama_layers,
    keys=frozenset(["attention_bias", "mlp_bias", "loop_num", "loop_window_size"]),
    rope_theta=500_000.0,
    head_dim=128,
    aliases=(
        (
            re.compile(r"model\.gate_projections\.(\d+)\.(weight|bias)"),
            r"model.layers.\1.self_attn.plt_gate.\2",
        ),
    ),
    gates=re.compile(r"model\.layers\.\d+\.self_attn\.plt_gate\.(weight|bias)"),
)

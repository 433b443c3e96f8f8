"""LoopCoder-V2: parallel loops. Defaults are those of the released config class.

The maths behind the keys is in arXiv 2510.24824 (PLT) and arXiv 2606.18023 (LoopCoder-V2).
"""

import re

from engine.config_fields import Fields, shown
from engine.errors import ConfigError
from engine.families.family import MAX_LOOPS, MAX_SCALE, MAX_WINDOW, Family, LoopSpec, llama_layers

DEFAULT_WINDOW = (64, 0)
DEFAULT_SHIFT = 1


def _loops(fields: Fields) -> LoopSpec:
    window = fields.values.get("plt_window_size", list(DEFAULT_WINDOW))
    if not isinstance(window, list | tuple) or len(window) != 2:
        raise ConfigError(f"config.json: plt_window_size must be [left, 0], got {shown(window)}.")
    sides = Fields("config.json", {"plt_window_size[0]": window[0], "plt_window_size[1]": window[1]})
    sides.integer("plt_window_size[1]", 0, 0)  # a causal model can't look right
    emb_scale = fields.optional_number("plt_emb_scale", -MAX_SCALE, MAX_SCALE)
    hidden_scale = fields.optional_number("plt_hidden_scale", -MAX_SCALE, MAX_SCALE)
    offset = fields.optional_integer("plt_clp_shift", 0, 1)
    return LoopSpec(
        num_loops=fields.integer("plt_num_loops", 1, MAX_LOOPS),
        offset=DEFAULT_SHIFT if offset is None else offset,
        window=sides.integer("plt_window_size[0]", 0, MAX_WINDOW),
        emb_scale=1.0 if emb_scale is None else emb_scale,
        hidden_scale=1.0 if hidden_scale is None else hidden_scale,
        normalize_per_loop=fields.boolean("plt_normalize_per_loop", True),
        gate_on_hidden=fields.boolean("plt_gate_use_hidden_states", False),
    )


FAMILY = Family(
    model_types=("iquestpltcoder",),
    parse_loops=_loops,
    parse_layers=llama_layers,
    keys=frozenset(
        [
            *("attention_bias", "mlp_bias"),
            *("plt_num_loops", "plt_window_size", "plt_normalize_per_loop", "plt_emb_scale"),
            *("plt_hidden_scale", "plt_gate_use_hidden_states", "plt_clp_shift"),
        ]
    ),
    aliases=(
        (re.compile(r"(model\.layers\.\d+\.self_attn\.)loop_gate_proj\.(.+)"), r"\1plt_gate.\2"),
        (
            re.compile(r"(?:model\.)?gate_projections\.(\d+)\.(weight|bias)"),
            r"model.layers.\1.self_attn.plt_gate.\2",
        ),
    ),
    gates=re.compile(r"model\.layers\.\d+\.self_attn\.plt_gate\.(weight|bias|gate_norm\.weight)"),
)

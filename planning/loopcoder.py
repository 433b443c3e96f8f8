"""The released LoopCoder-V2 7B (arXiv 2606.18023), of which the pages speak: what of its config.json counts here."""

from engine.config import parse_config
from planning.formats import formats_of
from planning.shape import shape_of

CONFIG = parse_config(
    {
        "model_type": "iquestpltcoder",
        "vocab_size": 76800,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 14,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000,
        "torch_dtype": "bfloat16",
        "plt_num_loops": 2,
        "plt_window_size": [64, 0],
        "plt_emb_scale": 0.707,
        "plt_hidden_scale": 0.053,
        "plt_gate_use_hidden_states": True,
    }
)

SHAPE = shape_of(
    CONFIG, formats_of(CONFIG, is_cpu=False, dtype="auto", kv_cache_dtype="auto", quantization="none")
)
"""In bfloat16, on a GPU."""

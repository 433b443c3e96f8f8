"""A small config of every family, and what to vary in it."""

from typing import Any

from tests.make_checkpoint import SHAPE

TINY: dict[str, dict[str, Any]] = {
    "iquestloopcoder": {
        "architectures": ["IQuestLoopCoderForCausalLM"],
        "attention_bias": False,
        "mlp_bias": False,
        "loop_num": 2,
        "loop_window_size": 9,
    },
    "nanbeige": {
        "architectures": ["NanbeigeForCausalLM"],
        "attention_bias": False,
        "num_loops": 2,
        "loop_loss_weights": [],
        "skip_loop_final_norm": False,
    },
    "ouro": {
        "architectures": ["OuroForCausalLM"],
        "num_key_value_heads": 4,
        "total_ut_steps": 4,
        "early_exit_threshold": 1.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 2,
    },
    "llama": {"architectures": ["LlamaForCausalLM"], "attention_bias": False, "mlp_bias": False},
    "iquestcoder": {
        "architectures": ["IQuestCoderForCausalLM"],
        "attention_bias": False,
        "mlp_bias": False,
        "clip_qkv": None,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 0,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": False,
        "sliding_window": 512,
        "max_window_layers": 2,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 2,
    },
}
LOOPS_KEY = {"iquestloopcoder": "loop_num", "nanbeige": "num_loops", "ouro": "total_ut_steps"}


def family_config(name: str, **changes: Any) -> dict[str, Any]:
    """A small `config.json` of the family whose `model_type` is `name`; keyword arguments replace or add keys."""
    return {**SHAPE, "model_type": name, **TINY[name], **changes}

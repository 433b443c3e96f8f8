"""The configs of released models parse, to the right number of weights where that is published."""

from typing import Any

import pytest

from engine.config import parameter_count, parse_config
from engine.families.family import LoopSpec
from scheduler.loop_layout import LoopCache

_IGNORED = {
    "use_cache": True,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "transformers_version": "4.57.1",
}
_QWEN = {
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    **_IGNORED,
}
LLAMA_3_2_1B: dict[str, Any] = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **_IGNORED},
    **{"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "tie_word_embeddings": True},
    **{"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "torch_dtype": "bfloat16"},
    **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-05},
    **{"max_position_embeddings": 131072, "rope_theta": 500000.0},
    "rope_scaling": {
        **{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0},
        **{"original_max_position_embeddings": 8192, "rope_type": "llama3"},
    },
}
# Before head_dim, rope_theta and grouped heads were keys.
LLAMA_1_7B: dict[str, Any] = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **_IGNORED},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": -1, "torch_dtype": "float16"},
    **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000},
    **{"num_attention_heads": 32, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048},
    **{"tie_word_embeddings": False},
}
QWEN_2_5_05B: dict[str, Any] = {
    **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936, **_QWEN},
    **{"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    **{"num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1000000.0},
    **{"max_window_layers": 24, "sliding_window": 32768, "use_sliding_window": False, "use_mrope": False},
    **{"tie_word_embeddings": True, "torch_dtype": "bfloat16"},
}
QWEN_3_06B: dict[str, Any] = {
    **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, **_QWEN},
    **{"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    **{"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1000000},
    **{"max_window_layers": 28, "sliding_window": None, "use_sliding_window": False, "attention_bias": False},
    **{"rope_scaling": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
}
IQUEST_LOOP: dict[str, Any] = {
    **{"architectures": ["IQuestLoopCoderForCausalLM"], "model_type": "iquestloopcoder", **_IGNORED},
    **{"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "torch_dtype": "bfloat16"},
    **{"eos_token_id": [2, 75864, 75869], "head_dim": 128, "hidden_size": 5120, "intermediate_size": 27648},
    **{"loop_num": 2, "loop_window_size": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05},
    **{"num_attention_heads": 40, "num_hidden_layers": 80, "num_key_value_heads": 8, "rope_theta": 500000},
    **{"tie_word_embeddings": False, "vocab_size": 76800},
}
NANBEIGE_4_2_3B: dict[str, Any] = {
    **{"architectures": ["NanbeigeForCausalLM"], "model_type": "nanbeige", "hidden_act": "silu", **_IGNORED},
    "auto_map": {"AutoModelForCausalLM": "modeling_nanbeige.NanbeigeForCausalLM"},
    **{"vocab_size": 166144, "hidden_size": 3072, "intermediate_size": 10752, "num_hidden_layers": 22},
    **{"num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "kv_channels": 128},
    **{
        "max_position_embeddings": 262144,
        "rope_theta": 70000000,
        "rope_scaling": None,
        "rms_norm_eps": 1e-05,
    },
    **{"attention_bias": False, "num_loops": 2, "loop_loss_weights": [], "skip_loop_final_norm": False},
    **{"pretraining_tp": 1, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
    **{"pad_token_id": 0, "bos_token_id": 166100, "eos_token_id": 166101},
}
# The same with everything that its config class knows written out.
NANBEIGE_IN_FULL: dict[str, Any] = {
    **NANBEIGE_4_2_3B,
    **{"mlp_bias": False, "qk_layernorm": False, "emb_neighbor_num": None, "emb_split_num": None},
    **{"ngram_vocab_size_ratio": None, "ngram_mod_force_prime": False, "ngram_embedding_hidden_size": None},
    **{"ngram_fused_mode": "average", "emb_tp_num": None, "ngram_compressed_tokenizer": False},
    **{"skip_ngram_for_input": False, "insert_ngram_layer_idx": [], "ngram_insert_all_layers": False},
    **{"ngram_layer_downproject_size": None, "enable_double_loop_split": False, "loop_middle_layers": None},
    **{"loop_share_kv": False, "mhc_diff_for_loop": False, "mhc_double_stream_position_for_loop": None},
    **{"enable_hyper_connection": False, "enable_mhc": False, "enable_h_res_identity": False},
    **{"mhc_identity_nohresparam": False, "num_residual_streams": 4, "mhc_sinkhorn_iterations": 20},
    **{"mhc_init_gating_factor": 0.01, "enable_depth_attention": False, "depth_attention_stride": None},
    **{"depth_attention_recent_window": 0, "depth_attention_static_anchor_once": True},
}
OURO_1_4B: dict[str, Any] = {
    **{"architectures": ["OuroForCausalLM"], "model_type": "ouro", "hidden_act": "silu", **_IGNORED},
    **{"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "vocab_size": 49152},
    **{"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 128, "rms_norm_eps": 1e-06},
    **{"max_position_embeddings": 65536, "rope_theta": 1000000.0, "rope_scaling": None},
    **{"total_ut_steps": 4, "early_exit_threshold": 1.0, "layer_types": ["full_attention"] * 24},
    **{"use_sliding_window": False, "sliding_window": None, "max_window_layers": 24},
    **{"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "tie_word_embeddings": False},
    "torch_dtype": "bfloat16",
}
PLAIN = LoopSpec(1, 0, 0, 0.0, 1.0, False, False)
PUBLISHED: dict[str, tuple[dict[str, Any], LoopSpec, int]] = {
    "Llama-3.2-1B": (LLAMA_3_2_1B, PLAIN, 1_235_814_400),
    "Llama-7B": (LLAMA_1_7B, PLAIN, 6_738_415_616),
    "Qwen2.5-0.5B": (QWEN_2_5_05B, PLAIN, 494_032_768),
    "Qwen3-0.6B": (QWEN_3_06B, PLAIN, 596_049_920),
    "IQuest-Coder-V1-40B-Loop": (
        IQUEST_LOOP,
        LoopSpec(2, 0, 63, 0.0, 1.0, False, False),
        # As the plain 40B, and in each layer a gate for every head.
        2 * 76800 * 5120 + 5120 + 80 * (2 * 5120 + 12 * 5120 * 1024 + 3 * 5120 * 27648 + 40 * 129),
    ),
    "Nanbeige4.2-3B": (
        NANBEIGE_4_2_3B,
        LoopSpec(2, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN),
        2 * 166144 * 3072 + 3072 + 22 * (2 * 3072 + 2 * 3072 * (6144 + 1024) + 3 * 3072 * 10752),
    ),
    "Ouro-1.4B": (
        OURO_1_4B,
        LoopSpec(4, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN),
        2 * 49152 * 2048 + 2048 + 24 * (4 * 2048 + 4 * 2048 * 2048 + 3 * 2048 * 5632),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_models_are_read(name: str) -> None:
    values, loops, count = PUBLISHED[name]
    config = parse_config(values)
    assert config.loops == loops
    assert parameter_count(config) == count
    assert (config.rope_theta, config.num_kv_heads) == (
        float(values.get("rope_theta", 10000.0)),
        values.get("num_key_value_heads", config.num_heads),
    )


def test_everything_written_out_is_the_same() -> None:
    assert parse_config(NANBEIGE_IN_FULL) == parse_config(NANBEIGE_4_2_3B)


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_newer_libraries_write_it(name: str) -> None:
    """RoPE's settings in one object, the dtype under its new name."""
    values, _, _ = PUBLISHED[name]
    old = dict(values)
    rope = old.pop("rope_scaling", None) or {"rope_type": "default"}
    new = {**old, "dtype": old.pop("torch_dtype"), "rope_theta": None}
    new["rope_parameters"] = {**rope, "rope_theta": values.get("rope_theta", 10000.0)}
    assert parse_config(new) == parse_config(values)

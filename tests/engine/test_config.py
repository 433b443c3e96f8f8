"""What `config.json` may say, and that everything else is refused with one line naming it."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import (
    MAX_CONFIG_BYTES,
    GenerationDefaults,
    LoopSpec,
    load_config,
    load_generation_defaults,
    parameter_count,
    parse_config,
)
from engine.errors import ConfigError
from engine.rope_scaling import RopeScaling
from tests.make_checkpoint import random_config, random_tensors

RELEASED: dict[str, Any] = {
    "architectures": ["IQuestPLTCoderForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_iquestpltcoder.IQuestPLTCoderConfig"},
    "model_type": "iquestpltcoder",
    "vocab_size": 76800,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 14,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000,
    "rope_scaling": None,
    "bos_token_id": 1,
    "eos_token_id": [2, 75864, 75869],
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "plt_num_loops": 2,
    "plt_window_size": [64, 0],
    "plt_normalize_per_loop": True,
    "plt_emb_scale": 0.707,
    "plt_hidden_scale": 0.053,
    "plt_gate_use_hidden_states": True,
}


def _write(directory: Path, **files: Any) -> Path:
    for name, value in files.items():
        (directory / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return directory


def test_released_config() -> None:
    config = parse_config(RELEASED)
    assert config.loops == LoopSpec(2, 1, 64, 0.707, 0.053, True, True)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (14, 40, 8, 128)
    assert config.eos_token_ids == (2, 75864, 75869)
    assert (config.bos_token_id, config.pad_token_id, config.torch_dtype) == (1, None, "bfloat16")
    assert (config.rope_theta, config.rope_scaling) == (500000.0, RopeScaling())
    assert parameter_count(config) == 7_615_749_680


def test_defaults_are_those_of_the_released_class() -> None:
    minimal = {
        key: RELEASED[key]
        for key in (
            *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
            *(
                "num_attention_heads",
                "max_position_embeddings",
                "rms_norm_eps",
                "rope_theta",
                "plt_num_loops",
            ),
        )
    }
    config = parse_config({**minimal, "plt_emb_scale": None, "plt_hidden_scale": None})
    assert config.loops == LoopSpec(2, 1, 64, 1.0, 1.0, True, False)
    assert (config.num_kv_heads, config.head_dim, config.eos_token_ids) == (40, 128, ())
    assert (config.attention_bias, config.mlp_bias, config.tie_word_embeddings) == (False, False, False)


@given(
    loops=st.integers(1, 3),
    gate_on_hidden=st.booleans(),
    tied=st.booleans(),
    attention_bias=st.booleans(),
    mlp_bias=st.booleans(),
    layers=st.integers(1, 2),
)
def test_parameter_count_is_what_a_checkpoint_holds(
    loops: int, gate_on_hidden: bool, tied: bool, attention_bias: bool, mlp_bias: bool, layers: int
) -> None:
    values = random_config(
        plt_num_loops=loops,
        plt_gate_use_hidden_states=gate_on_hidden,
        tie_word_embeddings=tied,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        num_hidden_layers=layers,
    )
    tensors = random_tensors(values, 0)
    assert parameter_count(parse_config(values)) == sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, bad)
            for key in ("vocab_size", "hidden_size")
            for bad in (-1, 0, True, 1.5, "64", math.nan, None)
        ),
        ("vocab_size", 10**30),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 3),
        ("num_key_value_heads", 0),
        ("head_dim", 15),
        ("head_dim", 0),
        ("max_position_embeddings", 0),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", math.nan),
        ("rms_norm_eps", None),
        ("rope_theta", math.inf),
        ("rope_theta", 10**400),
        ("rope_theta", None),
        ("hidden_act", "gelu"),
        ("attention_bias", 1),
        ("tie_word_embeddings", "no"),
        ("torch_dtype", "float8_e4m3fn"),
        ("torch_dtype", 3),
        ("bos_token_id", 320),
        ("eos_token_id", [2, 320]),
        ("eos_token_id", [True]),
        ("eos_token_id", list(range(65))),
        ("model_type", "mistral"),
        ("model_type", ["iquestpltcoder"]),
        ("plt_num_loops", 0),
        ("plt_num_loops", 10**9),
        ("plt_num_loops", None),
        ("plt_num_loops", True),
        ("plt_window_size", [64, 1]),
        ("plt_window_size", [-1, 0]),
        ("plt_window_size", [64]),
        ("plt_window_size", 64),
        ("plt_window_size", ["64", 0]),
        ("plt_window_size", None),
        ("plt_emb_scale", "1"),
        ("plt_emb_scale", math.inf),
        ("plt_hidden_scale", math.nan),
        ("plt_normalize_per_loop", 1),
        ("plt_gate_use_hidden_states", "true"),
        ("plt_clp_shift", 2),
        ("plt_clp_shift", False),
        ("plt_early_exit", 1),
        ("loop_num", 2),
        ("num_loops", 2),
        ("total_ut_steps", 4),
        ("mean_recurrence", 32),
        ("enable_mhc", False),
        ("enable_depth_attention", True),
        ("early_exit_threshold", 1.0),
        ("scale_first_loop", True),
        ("quantization_config", {"bits": 4}),
        ("sliding_window", 4096),
        ("partial_rotary_factor", 0.5),
        ("partial_rotary_factor", True),
    ],
)
def test_bad_values_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(random_config(**{key: value}))
    named = {"num_attention_heads": "head"}.get(key, key)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "values",
    [
        {
            "auto_map": {"AutoModelForCausalLM": "evil.Model"},
            "transformers_version": "4.57.1",
            "use_cache": True,
        },
        {"sliding_window": None, "partial_rotary_factor": 1.0, "quantization_config": None},
        {"eos_token_id": None, "pad_token_id": -1, "plt_clp_shift": None},
    ],
)
def test_harmless_keys_are_ignored(values: dict[str, Any]) -> None:
    assert parse_config(random_config(**values)).loops.num_loops == 2


def test_sizes_whose_product_is_absurd_are_refused() -> None:
    big = {
        "vocab_size": 1 << 22,
        "hidden_size": 1 << 17,
        "intermediate_size": 1 << 20,
        "num_hidden_layers": 1024,
    }
    with pytest.raises(ConfigError, match="parameters"):
        parse_config(random_config(**big))


@given(
    values=st.dictionaries(
        st.sampled_from(sorted(RELEASED)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab\n√", max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["type", "factor", "x\n"]), inner, max_size=3)
            ),
        ),
        max_size=4,
    )
)
def test_any_json_gives_a_config_or_a_config_error(values: dict[str, Any]) -> None:
    try:
        config = parse_config(random_config(**values))
    except ConfigError as error:
        lines = str(error).count("\n")
    else:
        lines = 0
        assert parameter_count(config) > 0
    assert lines == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, RopeScaling("linear", 2.0)),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, RopeScaling("dynamic", 2.0)),
        ({"rope_scaling": {"rope_type": "default"}}, RopeScaling()),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "truncate": False,
                }
            },
            RopeScaling("yarn", 4.0, original_max_position_embeddings=512, truncate=False),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 128}},
            RopeScaling("yarn", 4.0, original_max_position_embeddings=128),
        ),
        (
            {
                "rope_theta": None,
                "rope_parameters": {
                    **{"rope_type": "llama3", "rope_theta": 10000, "factor": 8.0, "low_freq_factor": 1.0},
                    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
                },
            },
            RopeScaling("llama3", 8.0, original_max_position_embeddings=64),
        ),
    ],
)
def test_rope_spellings(values: dict[str, Any], expected: RopeScaling) -> None:
    config = parse_config(random_config(**values))
    assert (config.rope_theta, config.rope_scaling) == (10000.0, expected)


@pytest.mark.parametrize(
    "values",
    [
        {"rope_scaling": {"type": "longrope", "factor": 2.0}},
        {"rope_scaling": {"type": ["linear"], "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": 0.5}},
        {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}},
        {"rope_scaling": {"type": "llama3", "factor": 2.0}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 1.0, "beta_slow": 2.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2},
        {"rope_scaling": "linear"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)
def test_unimplemented_rope_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"rope_|head_dim"):
        parse_config(random_config(**values))


def test_overrides_are_merged_and_checked(tmp_path: Path) -> None:
    _write(tmp_path, config=RELEASED)
    overrides = {"plt_clp_shift": 0, "plt_window_size": [63, 0], "plt_num_loops": 1, "plt_emb_scale": None}
    config = load_config(tmp_path, overrides)
    assert config.loops == LoopSpec(1, 0, 63, 1.0, 0.053, True, True)
    with pytest.raises(ConfigError, match="plt_windows"):
        load_config(tmp_path, {"plt_windows": [63, 0]})
    with pytest.raises(ConfigError, match="plt_clp_shift"):
        load_config(tmp_path, {"plt_clp_shift": "0"})


def test_generation_config_adds_stop_tokens_and_defaults(tmp_path: Path) -> None:
    assert load_generation_defaults(tmp_path) == GenerationDefaults()
    generation = {"eos_token_id": [4, 2], "temperature": 0.6, "top_p": 0.85, "top_k": 20, "do_sample": True}
    _write(tmp_path, config=random_config(eos_token_id=2), generation_config=generation)
    assert load_generation_defaults(tmp_path) == GenerationDefaults((4, 2), 0.6, 0.85, 20)
    assert load_config(tmp_path, {}).eos_token_ids == (2, 4)
    assert load_config(tmp_path, {"eos_token_id": 7}).eos_token_ids == (7,)
    _write(tmp_path, generation_config={"eos_token_id": 999})
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        load_config(tmp_path, {})
    _write(tmp_path, generation_config={"top_p": 0})
    with pytest.raises(ConfigError, match="top_p"):
        load_generation_defaults(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[1]", "must hold a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"rms_norm_eps": NaN}', "NaN is not allowed"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"x": "' + "y" * MAX_CONFIG_BYTES + '"}', "larger than"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(_write(tmp_path, config=text), {})
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Can't read .*config\.json"):
        load_config(tmp_path, {})


def test_what_the_api_process_imports_is_torch_free() -> None:
    code = (
        "import sys, engine.config, engine.kv_arithmetic, engine.tokenizer, engine.model_files; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

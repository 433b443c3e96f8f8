"""What each family's config may say, and that everything else is refused with its name."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import LoopSpec, load_config, parameter_count, parse_config
from engine.errors import ConfigError
from engine.families.registry import FAMILIES, SERVED_MODEL_TYPES, family_of
from scheduler.loop_layout import LoopCache
from tests.family_configs import LOOPS_KEY, TINY, family_config
from tests.make_checkpoint import make_checkpoint, random_config


@pytest.mark.parametrize(
    ("name", "changes", "loops"),
    [
        ("iquestloopcoder", {}, LoopSpec(2, 0, 8, 0.0, 1.0, False, False)),
        (
            "iquestloopcoder",
            {"loop_num": None, "loop_window_size": None},
            LoopSpec(2, 0, 63, 0.0, 1.0, False, False),
        ),
        ("nanbeige", {}, LoopSpec(2, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN)),
        ("nanbeige", {"num_loops": None}, LoopSpec(1, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN)),
        (
            "nanbeige",
            {"loop_loss_weights": [0.1, 0.2]},
            LoopSpec(3, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN),
        ),
        (
            "nanbeige",
            {"skip_loop_final_norm": True},
            LoopSpec(2, 0, 0, 0.0, 1.0, False, False, LoopCache.OWN),
        ),
        ("ouro", {"total_ut_steps": None}, LoopSpec(4, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN)),
        ("ouro", {"early_exit_threshold": None}, LoopSpec(4, 0, 0, 0.0, 1.0, True, False, LoopCache.OWN)),
        ("llama", {}, LoopSpec(1, 0, 0, 0.0, 1.0, False, False)),
    ],
)
def test_loops(name: str, changes: dict[str, Any], loops: LoopSpec) -> None:
    assert parse_config(family_config(name, **changes)).loops == loops


@pytest.mark.parametrize(
    ("name", "changes", "flags"),
    [
        ("llama", {"attention_bias": True}, (True, True, False, False, False)),
        ("llama", {"mlp_bias": True}, (False, False, True, False, False)),
        ("qwen2", {}, (True, False, False, False, False)),
        ("qwen2", {"attention_bias": False}, (True, False, False, False, False)),  # the class has no such key
        ("qwen3", {}, (False, False, False, True, False)),
        ("qwen3", {"attention_bias": True}, (True, True, False, True, False)),
        ("ouro", {}, (False, False, False, False, True)),
    ],
)
def test_layers(name: str, changes: dict[str, Any], flags: tuple[bool, ...]) -> None:
    config = parse_config(family_config(name, **changes))
    found = (
        config.attention_bias,
        config.output_bias,
        config.mlp_bias,
        config.qk_norm,
        config.sandwich_norms,
    )
    assert found == flags


def test_defaults_of_the_released_classes() -> None:
    assert parse_config(family_config("qwen3", head_dim=None)).head_dim == 128
    assert parse_config(family_config("qwen2", head_dim=None)).head_dim == 16
    assert parse_config(family_config("llama", rope_theta=None)).rope_theta == 10_000
    assert parse_config(family_config("iquestloopcoder", rope_theta=None)).rope_theta == 500_000
    with pytest.raises(ConfigError, match="rope_theta"):
        parse_config(random_config(rope_theta=None))


@pytest.mark.parametrize("name", TINY)
def test_foreign_loop_keys_are_all_named(name: str) -> None:
    foreign = {"plt_num_loops": 2, "mean_recurrence": 32, "recurrent_depth": None, "n_loop\nx": 3}
    with pytest.raises(ConfigError) as caught:
        parse_config(family_config(name, **foreign))
    assert all(repr(key) in str(caught.value) for key in foreign)
    assert "look like loop settings" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_familys_loop_keys_are_foreign_to_the_others() -> None:
    for name in TINY:
        for owner, key in LOOPS_KEY.items():
            if owner != name:
                with pytest.raises(ConfigError, match=f"'{key}'.*looks like a loop setting"):
                    parse_config(family_config(name, **{key: 2}))


def test_thousands_of_foreign_keys_make_a_short_message() -> None:
    with pytest.raises(ConfigError, match="and 980 more") as caught:
        parse_config(family_config("llama", **{f"loop_{number}": "x" * 500 for number in range(1000)}))
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *(("nanbeige", key, True) for key in ("loop_share_kv", "enable_mhc", "enable_double_loop_split")),
        *(
            ("nanbeige", key, True)
            for key in ("enable_depth_attention", "enable_hyper_connection", "qk_layernorm")
        ),
        *(
            ("nanbeige", key, value)
            for key, value in (("emb_neighbor_num", 3), ("insert_ngram_layer_idx", [0]))
        ),
        *(("nanbeige", "loop_loss_weights", value) for value in ("x", {"a": 1}, [0.0] * 64, 0.5)),
        ("nanbeige", "num_loops", 65),
        ("nanbeige", "num_loops", True),
        ("nanbeige", "skip_loop_final_norm", 1),
        *(("ouro", "early_exit_threshold", value) for value in (0.0, 0.5, 0.999, "1", True, 2.0)),
        ("ouro", "early_exit_step", 2),
        ("ouro", "total_ut_steps", 0),
        ("ouro", "attention_bias", True),
        ("ouro", "layer_types", ["full_attention", "sliding_attention"]),
        ("iquestloopcoder", "loop_window_size", 0),
        ("iquestloopcoder", "loop_num", 0),
        *((name, "layer_types", "full_attention") for name in TINY),
        *((name, "num_experts", 8) for name in TINY),
        *((name, "quantization_config", {"bits": 4}) for name in TINY),
        *(("llama", key, value) for key, value in (("sliding_window", 4096), ("use_sliding_window", True))),
        *(("llama", key, value) for key, value in (("rope_interleaved", True), ("scale_depth", 1.4))),
        *(("qwen2", key, value) for key, value in (("use_mrope", True), ("mlp_bias", True))),
        ("qwen2", "dual_chunk_attention_config", {"chunk_size": 262144}),
        ("iquestcoder", "clip_qkv", 8.0),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(name: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        parse_config(family_config(name, **{key: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "ouro", "iquestcoder"])
def test_a_sliding_window_is_refused_where_a_layer_has_one(name: str) -> None:
    on = {"use_sliding_window": True, "sliding_window": 64}
    for changes in (
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        {**on, "max_window_layers": 2},
        {**on, "max_window_layers": 0, "layer_types": ["full_attention"] * 2},
    ):
        parse_config(family_config(name, **changes))
    with pytest.raises(ConfigError, match="layers 1 to 1 attend to a window"):
        parse_config(family_config(name, **on, max_window_layers=1))


@pytest.mark.parametrize("name", LOOPS_KEY)
def test_the_number_of_loops_can_be_overridden(name: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, family_config(name), seed=0)
    assert load_config(tmp_path, {LOOPS_KEY[name]: 3}).loops.num_loops == 3
    with pytest.raises(ConfigError, match="plt_num_loops"):
        load_config(tmp_path, {"plt_num_loops": 3})


def test_an_exit_threshold_can_be_overridden(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, family_config("ouro", early_exit_threshold=0.9), seed=0)
    with pytest.raises(ConfigError, match="--model-overrides"):
        load_config(tmp_path, {})
    assert load_config(tmp_path, {"early_exit_threshold": 1.0}).loops.num_loops == 4


def test_model_types_are_one_familys_each() -> None:
    assert len(SERVED_MODEL_TYPES) == sum(len(family.model_types) for family in FAMILIES)
    assert all(model_type in family_of(model_type).model_types for model_type in SERVED_MODEL_TYPES)
    with pytest.raises(ConfigError, match="'mistral' is not served; served are: iquestpltcoder, "):
        family_of("mistral")


_KEYS = sorted(
    {key for family in FAMILIES for key in family.keys | family.off.keys()} | set(family_config("llama"))
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab\n√", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "factor", "x\n"]), inner, max_size=3)
    ),
)


@given(name=st.sampled_from(sorted(TINY)), values=st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4))
def test_any_json_gives_a_config_or_a_config_error(name: str, values: dict[str, Any]) -> None:
    try:
        config = parse_config(family_config(name, **values))
    except ConfigError as error:
        lines = str(error).count("\n")
    else:
        lines = 0
        assert parameter_count(config) > 0
        assert config.loops.num_loops >= 1
    assert lines == 0

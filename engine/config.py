"""`config.json` as a typed, bounded description of a model. Torch-free, since the API process reads it.

Every value is checked before anything is allocated from it, and every loop-related key is either understood or
refused: a looped model served as a plain one gives fluent nonsense and no error. What a family spells in its own way is
in its module of `engine/families`.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.config_fields import Fields, shown
from engine.errors import ConfigError
from engine.families.family import Family
from engine.families.family import LoopSpec as LoopSpec
from engine.families.registry import family_of
from engine.model_directory import has_file, read_json_object
from engine.rope_scaling import RopeScaling, parse_rope

TORCH_DTYPES = ("float32", "float16", "bfloat16")

# Bounds: roughly ten times the largest published model in each direction, so that nothing real is refused and
# nothing absurd is allocated.
MAX_CONFIG_BYTES = 1 << 20
MAX_VOCAB_SIZE = 1 << 22
MAX_HIDDEN_SIZE = 1 << 17
MAX_INTERMEDIATE_SIZE = 1 << 20
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_POSITIONS = 1 << 24
MAX_PARAMETERS = 1 << 40
MAX_EOS_TOKENS = 64

_COMMON_KEYS = frozenset(
    [
        *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings"),
        *("rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "layer_types"),
        *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype"),
    ]
)
# Loop keys of all families that there are (those served, Huginn, mixtures of recursions): none may be ignored.
_LOOP_KEY = re.compile(
    r"plt_|loop|recur|ut_steps|mhc|depth|early_exit|emb_neighbor|ngram|hyper_connection", re.IGNORECASE
)
_MAX_KEYS_NAMED = 20
_NO = (None, False)
_NO_EXPERTS = (None, 0)
_ONE = (None, 1, 1.0)
# Keys that change the plain layers of any family; harmless only at these values. A family may know one of them better.
_OFF_VALUES: dict[str, tuple[object, ...]] = {
    "quantization_config": (None,),
    "quantization": (None,),
    "sliding_window": (None,),
    "use_sliding_window": _NO,
    "dual_chunk_attention_config": (None,),
    "partial_rotary_factor": _ONE,
    "qk_layernorm": _NO,
    "use_qk_norm": _NO,
    "use_mrope": _NO,
    "rope_interleaved": _NO,
    "rope_traditional": _NO,
    "is_causal": (None, True),
    "num_experts": _NO_EXPERTS,
    "num_local_experts": _NO_EXPERTS,
    "n_routed_experts": _NO_EXPERTS,
    "scale_depth": _ONE,
    "scale_emb": _ONE,
    "dim_model_base": (None,),
    "embedding_multiplier": _ONE,
    "residual_multiplier": _ONE,
    "attention_multiplier": (None,),
    "logits_scaling": _ONE,
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
}


@dataclass(frozen=True)
class ModelConfig:
    """One served model. Sizes are in elements; `eos_token_ids` may be empty.

    Attributes:
        attention_bias: of q, k and v; `output_bias` is o_proj's. See `LayerSpec` for these and the norms.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    torch_dtype: str
    loops: LoopSpec
    output_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False


@dataclass(frozen=True)
class GenerationDefaults:
    """What `generation_config.json` says; None where it says nothing. `do_sample` is not consulted."""

    eos_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


def load_config(model_dir: Path, overrides: Mapping[str, object]) -> ModelConfig:
    """Read `config.json`, with `overrides` merged over its top level.

    The end-of-sequence ids of `generation_config.json` are added to those of `config.json`, unless
    `eos_token_id` is overridden.

    Raises:
        ConfigError: the file is missing, too big or malformed, or `parse_config` refuses it.
    """
    values = {**read_json_object(model_dir, "config.json", MAX_CONFIG_BYTES, ConfigError), **overrides}
    family = family_of(values.get("model_type"))
    unknown = sorted(set(overrides) - _COMMON_KEYS - family.keys - _off_values(family).keys())
    if unknown:
        raise ConfigError(
            f"Model override {shown(unknown[0])} is not a key of config.json that is used here."
        )
    config = parse_config(values)
    if "eos_token_id" in overrides:
        return config
    extra = load_generation_defaults(model_dir).eos_token_ids
    _check_below_vocab("eos_token_id in generation_config.json", extra, config.vocab_size)
    return dataclasses.replace(config, eos_token_ids=tuple(dict.fromkeys(config.eos_token_ids + extra)))


def load_generation_defaults(model_dir: Path) -> GenerationDefaults:
    """Read `generation_config.json`; a missing file gives all-None defaults.

    Raises:
        ConfigError: the file is malformed or a value is out of its range.
    """
    name = "generation_config.json"
    if not has_file(model_dir, name):
        return GenerationDefaults()
    fields = Fields(name, read_json_object(model_dir, name, MAX_CONFIG_BYTES, ConfigError))
    return GenerationDefaults(
        eos_token_ids=_eos_ids(fields),
        temperature=fields.optional_number("temperature", 0.0, 100.0),
        top_p=fields.optional_number("top_p", 1e-9, 1.0),
        top_k=fields.optional_integer("top_k", 0, 2**31),
        min_p=fields.optional_number("min_p", 0.0, 1.0),
        repetition_penalty=fields.optional_number("repetition_penalty", 1e-9, 100.0),
    )


def parse_config(values: Mapping[str, object]) -> ModelConfig:
    """Check the decoded `config.json` and give it types.

    Sizes and eps have no default: guessing them serves a wrong model. `num_key_value_heads` defaults to the heads;
    RoPE's theta, `head_dim` and loop keys to what the family's released config class says.

    Raises:
        ConfigError: names the key, its value and what is allowed.
    """
    fields = Fields("config.json", values)
    family = family_of(values.get("model_type"))
    _refuse_foreign(fields, family)
    hidden = fields.integer("hidden_size", 1, MAX_HIDDEN_SIZE)
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    kv_heads = fields.optional_integer("num_key_value_heads", 1, MAX_HEADS) or heads
    vocab = fields.integer("vocab_size", 1, MAX_VOCAB_SIZE)
    positions = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
    bos = fields.optional_integer("bos_token_id", 0, vocab - 1)
    eos = _eos_ids(fields)
    _check_below_vocab("eos_token_id in config.json", eos, vocab)
    head_dim = _head_dim(fields, family, hidden, heads)
    theta, scaling = parse_rope(fields, positions, head_dim, family.rope_theta)
    layers = family.parse_layers(fields)
    if heads % kv_heads:
        raise ConfigError(
            f"config.json: num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}."
        )
    config = ModelConfig(
        model_type=str(values["model_type"]),
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, MAX_INTERMEDIATE_SIZE),
        num_layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=positions,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-20, 1.0),
        rope_theta=theta,
        rope_scaling=scaling,
        attention_bias=layers.attention_bias,
        mlp_bias=layers.mlp_bias,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        bos_token_id=bos,
        eos_token_ids=eos,
        pad_token_id=_pad_id(fields, vocab),
        torch_dtype=_torch_dtype(fields),
        loops=family.parse_loops(fields),
        output_bias=layers.output_bias,
        qk_norm=layers.qk_norm,
        sandwich_norms=layers.sandwich_norms,
    )
    count = parameter_count(config)
    if count > MAX_PARAMETERS:
        raise ConfigError(
            f"config.json: the sizes make {count:,} parameters, at most {MAX_PARAMETERS:,} are served."
        )
    return config


def parameter_count(config: ModelConfig) -> int:
    """Number of weights that are loaded; the gates only when there is a loop that uses them."""
    hidden, heads, head_dim = config.hidden_size, config.num_heads, config.head_dim
    q_width, kv_width = heads * head_dim, config.num_kv_heads * head_dim
    attention = hidden * (2 * q_width + 2 * kv_width)
    mlp = 3 * hidden * config.intermediate_size
    norms = (4 if config.sandwich_norms else 2) * hidden + (2 * head_dim if config.qk_norm else 0)
    if config.attention_bias:
        attention += q_width + 2 * kv_width
    if config.output_bias:
        attention += hidden
    if config.mlp_bias:
        mlp += 2 * config.intermediate_size + hidden
    gate = 0
    if config.loops.has_gates:
        gate = heads + (heads * hidden + hidden if config.loops.gate_on_hidden else heads * head_dim)
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return embeddings + config.num_layers * (attention + mlp + norms + gate) + hidden


def _off_values(family: Family) -> dict[str, tuple[object, ...]]:
    """Keys of which only some values are served."""
    common = {key: values for key, values in _OFF_VALUES.items() if key not in family.keys}
    return {**common, **family.off}


def _refuse_foreign(fields: Fields, family: Family) -> None:
    """Refuse keys whose meaning this server doesn't have."""
    off = _off_values(family)
    unknown = [key for key in fields.values if _LOOP_KEY.search(key) and key not in family.keys | off.keys()]
    if unknown:
        named = ", ".join(
            f"{shown(key)} (value {shown(fields.values[key])})" for key in unknown[:_MAX_KEYS_NAMED]
        )
        rest = len(unknown) - _MAX_KEYS_NAMED
        one = len(unknown) == 1
        raise ConfigError(
            f"config.json: {named}{f' and {rest} more' if rest > 0 else ''} "
            f"{'looks like a loop setting that is' if one else 'look like loop settings that are'} not "
            f"implemented for {family.model_types[0]}; ignoring {'it' if one else 'them'} would give wrong output."
        )
    for key, allowed in off.items():
        value = fields.values.get(key)
        if not any(type(value) is type(off) and value == off for off in allowed):
            raise ConfigError(
                f"config.json: {key} {shown(value)} is not implemented; only leaving it out is allowed."
            )
    types = fields.values.get("layer_types")
    if types is not None and (not isinstance(types, list) or any(each != "full_attention" for each in types)):
        raise ConfigError(
            f"config.json: layer_types {shown(types)} is not implemented; every layer must be 'full_attention'."
        )
    act = fields.values.get("hidden_act", "silu")
    if act != "silu":
        raise ConfigError(f"config.json: hidden_act {shown(act)} is not implemented; only 'silu' is.")


def _head_dim(fields: Fields, family: Family, hidden: int, heads: int) -> int:
    head_dim = fields.optional_integer("head_dim", 1, MAX_HEAD_DIM) or family.head_dim
    if head_dim is None:
        head_dim, rest = divmod(hidden, heads)
        if rest or head_dim > MAX_HEAD_DIM:
            raise ConfigError(
                f"config.json: hidden_size {hidden} with {heads} attention heads gives no valid head_dim; "
                f"set head_dim (1 to {MAX_HEAD_DIM})."
            )
    if head_dim % 2 or head_dim == 0:
        raise ConfigError(f"config.json: head_dim {head_dim} must be even (RoPE rotates pairs) and above 0.")
    return head_dim


def _eos_ids(fields: Fields) -> tuple[int, ...]:
    value = fields.values.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > MAX_EOS_TOKENS:
        raise ConfigError(
            f"{fields.where}: eos_token_id has {len(ids)} entries, at most {MAX_EOS_TOKENS} are allowed."
        )
    each = Fields(fields.where, {f"eos_token_id[{index}]": token for index, token in enumerate(ids)})
    return tuple(dict.fromkeys(each.integer(key, 0, MAX_VOCAB_SIZE - 1) for key in each.values))


def _check_below_vocab(where: str, ids: tuple[int, ...], vocab_size: int) -> None:
    if ids and max(ids) >= vocab_size:
        raise ConfigError(
            f"{where} holds {max(ids)}, but ids go from 0 to {vocab_size - 1} (vocab_size {vocab_size})."
        )


def _pad_id(fields: Fields, vocab_size: int) -> int | None:
    # -1 is an old spelling of "no padding token"; nothing here pads, so it is only recorded.
    if fields.values.get("pad_token_id") == -1:
        return None
    return fields.optional_integer("pad_token_id", 0, vocab_size - 1)


def _torch_dtype(fields: Fields) -> str:
    value = fields.values.get("dtype") or fields.values.get("torch_dtype") or "float32"
    if not isinstance(value, str) or value not in TORCH_DTYPES:
        raise ConfigError(
            f"config.json: torch_dtype must be one of {', '.join(TORCH_DTYPES)}, got {shown(value)}."
        )
    return value

"""RoPE settings of `config.json`: theta and the kinds of context stretching. Torch-free; the maths is in `rope.py`.

Both spellings are read: `rope_theta` beside `rope_scaling: {type | rope_type, ...}`, and the newer
`rope_parameters: {rope_type, rope_theta, ...}`.
"""

from dataclasses import dataclass

from engine.config_fields import Fields, shown
from engine.errors import ConfigError

ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "llama3")
MIN_ROPE_THETA = 1.001  # yarn divides by its logarithm
MAX_ROPE_THETA = 1e15
MAX_ROPE_FACTOR = 1e6
MAX_ROPE_POSITIONS = 1 << 24
_PARAMETERS = frozenset(
    [
        *(
            "rope_type",
            "type",
            "rope_theta",
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
        ),
        *(
            "mscale",
            "mscale_all_dim",
            "beta_fast",
            "beta_slow",
            "truncate",
            "low_freq_factor",
            "high_freq_factor",
        ),
    ]
)


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched; fields that `kind` doesn't use keep their defaults.

    Attributes:
        kind: one of `ROPE_KINDS`.
        factor: context stretch, at least 1.
        original_max_position_embeddings: positions trained before stretching (yarn, llama3).
        attention_factor: yarn: multiplies cos and sin; None derives it from the factor and the mscales.
        mscale, mscale_all_dim: yarn, DeepSeek's variant of the attention factor; None is off.
        beta_fast, beta_slow: yarn: rotations per context that bound the interpolation ramp.
        truncate: yarn: round the ramp's bounds to whole dimensions.
        low_freq_factor, high_freq_factor: llama3: wavelength bounds as fractions of the original context.
    """

    kind: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


def parse_rope(
    fields: Fields, positions: int, head_dim: int, default_theta: float | None = None
) -> tuple[float, RopeScaling]:
    """RoPE's theta and scaling.

    Args:
        fields: the top level of `config.json`.
        positions: its `max_position_embeddings`.
        default_theta: where `config.json` has none; None if it must have one.

    Raises:
        ConfigError: an unknown kind or parameter, a value out of range, or two places that disagree.
    """
    source, raw = _source(fields)
    inner = Fields(f"{fields.where}: {source}", raw)
    unknown = sorted(set(raw) - _PARAMETERS)
    scaling = _scaling(inner, positions)
    if unknown:
        raise ConfigError(f"{inner.where}: {shown(unknown[0])} is not implemented for type {scaling.kind!r}.")
    if scaling.kind == "dynamic" and head_dim == 2:
        raise ConfigError(f"{inner.where}: type 'dynamic' needs a head_dim above 2.")
    given = [place.optional_number("rope_theta", MIN_ROPE_THETA, MAX_ROPE_THETA) for place in (fields, inner)]
    thetas = sorted({theta for theta in given if theta is not None})
    if not thetas and default_theta is not None:
        return default_theta, scaling
    if len(thetas) != 1:
        raise ConfigError(f"{fields.where}: rope_theta must be given, once; got {thetas or 'none'}.")
    return thetas[0], scaling


def _source(fields: Fields) -> tuple[str, dict[str, object]]:
    present = [key for key in ("rope_parameters", "rope_scaling") if fields.values.get(key) is not None]
    if not present:
        return "rope_scaling", {}
    if len(present) == 2 and fields.values["rope_parameters"] != fields.values["rope_scaling"]:
        raise ConfigError(f"{fields.where}: rope_parameters and rope_scaling disagree; keep one of them.")
    raw = fields.values[present[0]]
    if not isinstance(raw, dict):
        raise ConfigError(f"{fields.where}: {present[0]} must be an object or null, got {shown(raw)}.")
    return present[0], raw


def _scaling(inner: Fields, positions: int) -> RopeScaling:
    kinds = [inner.values[key] for key in ("rope_type", "type") if inner.values.get(key) is not None]
    kind = kinds[0] if kinds else "default"
    if kind not in ROPE_KINDS or any(other != kind for other in kinds):
        raise ConfigError(
            f"{inner.where}: type {shown(kinds[-1])} is not implemented; implemented are: {', '.join(ROPE_KINDS)}."
        )
    if kind == "linear" or kind == "dynamic":
        return RopeScaling(kind=kind, factor=inner.number("factor", 1.0, MAX_ROPE_FACTOR))
    if kind == "llama3":
        return _llama3(inner)
    if kind == "yarn":
        return _yarn(inner, positions)
    return RopeScaling()


def _llama3(inner: Fields) -> RopeScaling:
    low = inner.number("low_freq_factor", 1e-6, MAX_ROPE_FACTOR)
    high = inner.number("high_freq_factor", 1e-6, MAX_ROPE_FACTOR)
    if high <= low:
        raise ConfigError(f"{inner.where}: high_freq_factor {high} must be above low_freq_factor {low}.")
    return RopeScaling(
        kind="llama3",
        factor=inner.number("factor", 1.0, MAX_ROPE_FACTOR),
        original_max_position_embeddings=inner.integer(
            "original_max_position_embeddings", 1, MAX_ROPE_POSITIONS
        ),
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(inner: Fields, positions: int) -> RopeScaling:
    original = inner.optional_integer("original_max_position_embeddings", 1, MAX_ROPE_POSITIONS) or positions
    # A null factor is the ratio of contexts; zero or null betas and mscales mean "not given" (as in transformers).
    factor = inner.optional_number("factor", 1.0, MAX_ROPE_FACTOR) or max(1.0, positions / original)
    fast = inner.optional_number("beta_fast", 0.0, MAX_ROPE_FACTOR) or 32.0
    slow = inner.optional_number("beta_slow", 0.0, MAX_ROPE_FACTOR) or 1.0
    if fast < slow:
        raise ConfigError(f"{inner.where}: beta_fast {fast} must not be below beta_slow {slow}.")
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=inner.optional_number("attention_factor", 1e-6, MAX_ROPE_FACTOR),
        mscale=inner.optional_number("mscale", 0.0, MAX_ROPE_FACTOR) or None,
        mscale_all_dim=inner.optional_number("mscale_all_dim", 0.0, MAX_ROPE_FACTOR) or None,
        beta_fast=fast,
        beta_slow=slow,
        truncate=inner.boolean("truncate", True),
    )

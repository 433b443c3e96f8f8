"""What a family has to say about its models: loops, layers, and how its config and its tensors are spelled."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.config_fields import Fields
from scheduler.loop_layout import LoopCache

MAX_LOOPS = 64
MAX_WINDOW = 1 << 20
MAX_SCALE = 1e6

OffValues = Mapping[str, tuple[object, ...]]


@dataclass(frozen=True)
class LoopSpec:
    """What makes the model looped.

    Attributes:
        num_loops: R, how often the layer stack is applied.
        offset: loop l at position i reads loop l-1's state at position i - offset; 1 in PLT.
        window: W, tokens to the left that a later loop sees of itself; with the token itself W + 1 keys. 0 if every
            loop has a cache of its own.
        emb_scale: factor of the embedding in the input of loops ≥ 1.
        hidden_scale: factor of the previous loop's state in the input of loops ≥ 1.
        normalize_per_loop: the final norm is applied between loops too.
        gate_on_hidden: the gate reads the normed layer input, [heads, hidden]; else the rotated query,
            [heads, head_dim]. Nothing if there are no gates.
        cache: which keys a later loop reads.
    """

    num_loops: int
    offset: int
    window: int
    emb_scale: float
    hidden_scale: float
    normalize_per_loop: bool
    gate_on_hidden: bool
    cache: LoopCache = LoopCache.WINDOW

    @property
    def has_gates(self) -> bool:
        """Whether later loops mix what they read of loop 0 with what they read of themselves."""
        return self.num_loops > 1 and self.cache is LoopCache.WINDOW


@dataclass(frozen=True)
class LayerSpec:
    """What the layers of families differ in.

    Attributes:
        attention_bias: q, k and v have biases.
        output_bias: o_proj has one.
        mlp_bias: gate, up and down have biases.
        qk_norm: an RMSNorm of each head's query and key before they are rotated.
        sandwich_norms: an RMSNorm of what attention and MLP give before it is added to the residual.
    """

    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False


@dataclass(frozen=True)
class Family:
    """Models that are spelled alike.

    Attributes:
        model_types: values of `model_type`.
        parse_loops, parse_layers: read what the family's keys say; they raise `ConfigError`.
        keys: of config.json, beside those that all families have.
        off: keys that are known, with the values at which they change nothing; any other value is refused.
        rope_theta: where config.json has none; None if it must have one.
        head_dim: where config.json has none; None is hidden_size / heads.
        aliases: patterns of tensor names and what `engine.checkpoint.expected_tensors` calls them.
        unused_tensors: names of tensors that may be there and that nothing reads.
        gates: names of the gates, which a model that is cut to one loop does not read.
    """

    model_types: tuple[str, ...]
    parse_loops: Callable[[Fields], LoopSpec]
    parse_layers: Callable[[Fields], LayerSpec]
    keys: frozenset[str] = frozenset()
    off: OffValues = field(default_factory=dict)
    rope_theta: float | None = None
    head_dim: int | None = None
    aliases: tuple[tuple[re.Pattern[str], str], ...] = ()
    unused_tensors: re.Pattern[str] | None = None
    gates: re.Pattern[str] | None = None

    def canonical_name(self, stored_name: str) -> str:
        """The model's name of a tensor that a file calls `stored_name`."""
        for pattern, name in self.aliases:
            if match := pattern.fullmatch(stored_name):
                return match.expand(name)
        return stored_name

    def leaves_unused(self, name: str, num_loops: int) -> bool:
        """Whether a model of so many loops may come with a tensor of this (canonical) name without needing it."""
        patterns = (self.unused_tensors, self.gates if num_loops == 1 else None)
        return any(pattern is not None and pattern.fullmatch(name) for pattern in patterns)


ROTARY_BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""RoPE's frequencies, which older checkpoints hold though they follow from the config."""


def one_loop(fields: Fields) -> LoopSpec:
    """A model that is not looped."""
    return LoopSpec(1, 0, 0, 0.0, 1.0, False, False)


def llama_layers(fields: Fields) -> LayerSpec:
    """`attention_bias` is of q, k, v and o, `mlp_bias` of gate, up and down."""
    attention = fields.boolean("attention_bias", False)
    return LayerSpec(attention, attention, fields.boolean("mlp_bias", False))

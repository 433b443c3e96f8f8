"""A model's sizes as the roofline needs them."""

from dataclasses import dataclass, replace

from engine.config import ModelConfig
from planning.formats import Formats
from scheduler.loop_layout import LoopCache


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes in elements, and bytes per element.

    Attributes:
        window: W, so a later loop sees W + 1 of its own keys.
        cache: whose keys a later loop reads.
        offset: 0 where a loop needs the loop before at the same position: no two loops of a token fit into one pass.
        activation_bytes: of activations and H.
        layer_bytes: per weight of the layers' products, with the scales of quantised ones.
        head_bytes: per weight of the head.
        cache_bytes: of keys and values.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    window: int
    offset: int = 1
    cache: LoopCache = LoopCache.WINDOW
    gate_on_hidden: bool = True
    activation_bytes: int = 2
    layer_bytes: float = 2
    head_bytes: int = 2
    cache_bytes: int = 2

    @property
    def has_windows(self) -> bool:
        """Whether later loops keep windows beside loop 0's context, and not a context each."""
        return self.cache is LoopCache.WINDOW

    @property
    def layer_weights(self) -> int:
        """Elements of one layer's matrices: q, k, v, o, gate, up, down."""
        q_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.hidden * (2 * q_width + 2 * kv_width) + 3 * self.hidden * self.intermediate

    @property
    def gate_weights(self) -> int:
        """Elements of one layer's gate between shared context and window, where there are windows."""
        if not self.has_windows:
            return 0
        return self.heads * (self.hidden if self.gate_on_hidden else self.head_dim)

    @property
    def kv_elements(self) -> int:
        """Key and value elements of one position of one loop, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def split(self, ranks: int) -> "Shape":
        """What each of so many ranks computes; activations of the hidden width stay whole."""
        return replace(
            self,
            heads=self.heads // ranks,
            kv_heads=self.kv_heads // ranks,
            intermediate=self.intermediate // ranks,
            vocab=-(-self.vocab // ranks),
        )


def shape_of(config: ModelConfig, formats: Formats) -> Shape:
    """The shape of a served model in these formats."""
    return Shape(
        hidden=config.hidden_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        window=config.loops.window,
        offset=config.loops.offset,
        cache=config.loops.cache,
        gate_on_hidden=config.loops.gate_on_hidden,
        activation_bytes=formats.activation_bytes,
        layer_bytes=formats.layer_bits / 8,
        head_bytes=formats.weight_bytes,
        cache_bytes=formats.cache_bytes,
    )

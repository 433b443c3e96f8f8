"""What a model's weights take in memory, for the check before loading and for `loopserve plan`. Torch-free."""

from dataclasses import dataclass

from engine.config import ModelConfig, parameter_count


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes by part.

    Attributes:
        embedding: whole on every rank of a split model.
        head: the part that is split by the vocabulary; 0 if the model has it tied to the embedding.
        layers: with the norms.
    """

    embedding: int
    head: int
    layers: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.layers


def weight_bytes(config: ModelConfig, element_bytes: int, layer_bits: float) -> WeightBytes:
    """Weights whose layers are stored in `layer_bits` each and the rest in `element_bytes`."""
    embedding = config.vocab_size * config.hidden_size
    head = 0 if config.tie_word_embeddings else embedding
    layers = parameter_count(config) - embedding - head
    return WeightBytes(embedding * element_bytes, head * element_bytes, int(layers * layer_bits / 8))

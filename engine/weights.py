"""Checkpoint tensors → the products and vectors the model uses, layer by layer.

q, k, v and gate, up are fused into one product each. A layer's plain tensors are dropped as soon as they are packed, so
loading needs the packed weights plus one layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from engine.config import ModelConfig
from engine.errors import CheckpointError
from kernels.linear import Linear, make_batch_invariant

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class GateWeights:
    """PLT gate of one layer.

    Attributes:
        norm: ``[hidden]`` and `product` ``hidden → heads`` for the gate on hidden states.
        weight: ``[heads, head_dim]`` and `bias` ``[heads]`` for the gate on the rotated query.
    """

    norm: torch.Tensor | None
    product: Linear | None
    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; the same for every loop."""

    input_norm: torch.Tensor
    qkv: Linear
    output: Linear
    gate: GateWeights | None
    post_attention_norm: torch.Tensor
    gate_up: Linear
    down: Linear

    def products(self) -> list[Linear]:
        gate = [self.gate.product] if self.gate and self.gate.product else []
        return [self.qkv, self.output, self.gate_up, self.down, *gate]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Everything the model reads.

    Attributes:
        embedding: ``[vocab, hidden]`` float32.
        norm: ``[hidden]``.
    """

    embedding: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    head: Linear


def build_weights(config: ModelConfig, tensors: Iterable[tuple[str, torch.Tensor]]) -> ModelWeights:
    """Pack the tensors of a checked checkpoint.

    Args:
        tensors: (name, float32 tensor) in any order; a layer is packed when its last tensor has come.

    Raises:
        CheckpointError: if a layer never became complete.
    """
    outer: Tensors = {}
    pending: dict[int, Tensors] = {index: {} for index in range(config.num_layers)}
    layers: dict[int, LayerWeights] = {}
    per_layer = _tensors_per_layer(config)
    for name, tensor in tensors:
        if not name.startswith("model.layers."):
            outer[name] = tensor
            continue
        index_text, _, inner = name.removeprefix("model.layers.").partition(".")
        layer = pending[int(index_text)]
        layer[inner] = tensor
        if len(layer) == per_layer:
            layers[int(index_text)] = _build_layer(config, pending.pop(int(index_text)))
    if pending:
        raise CheckpointError(f"layers {sorted(pending)} are incomplete")
    embedding = outer["model.embed_tokens.weight"]
    head = Linear(embedding if config.tie_word_embeddings else outer["lm_head.weight"])
    ordered = [layers[index] for index in range(config.num_layers)]
    make_batch_invariant([head, *(product for layer in ordered for product in layer.products())])
    return ModelWeights(embedding, ordered, outer["model.norm.weight"], head)


def _tensors_per_layer(config: ModelConfig) -> int:
    count = 2 + 4 + 3 + (4 if config.attention_bias else 0) + (3 if config.mlp_bias else 0)
    if config.loops.num_loops > 1:
        count += 3 if config.loops.gate_on_hidden else 2
    return count


def _build_layer(config: ModelConfig, tensors: Tensors) -> LayerWeights:
    return LayerWeights(
        input_norm=tensors["input_layernorm.weight"],
        qkv=_product(tensors, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output=_product(tensors, "self_attn.o_proj"),
        gate=_gate(config, tensors) if config.loops.num_loops > 1 else None,
        post_attention_norm=tensors["post_attention_layernorm.weight"],
        gate_up=_product(tensors, "mlp.gate_proj", "mlp.up_proj"),
        down=_product(tensors, "mlp.down_proj"),
    )


def _product(tensors: Tensors, *names: str) -> Linear:
    """The products of `names` side by side, as one."""
    weight = torch.cat([tensors[f"{name}.weight"] for name in names])
    if f"{names[0]}.bias" not in tensors:
        return Linear(weight)
    return Linear(weight, torch.cat([tensors[f"{name}.bias"] for name in names]))


def _gate(config: ModelConfig, tensors: Tensors) -> GateWeights:
    weight, bias = tensors["self_attn.plt_gate.weight"], tensors["self_attn.plt_gate.bias"]
    if not config.loops.gate_on_hidden:
        return GateWeights(None, None, weight, bias)
    return GateWeights(tensors["self_attn.plt_gate.gate_norm.weight"], Linear(weight, bias), weight, bias)

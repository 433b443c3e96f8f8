"""Checkpoint tensors → the products and vectors the model uses, layer by layer.

q, k, v and gate, up are fused into one product each. A layer's plain tensors are dropped as soon as its products are
made, so loading needs the products plus one layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from engine.checkpoint import expected_tensors
from engine.config import ModelConfig
from engine.errors import CheckpointError
from kernels.interface import HiddenGate, Linear, QueryGate
from kernels.linear import LinearFactory

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; the same for every loop.

    Attributes:
        query_norm, key_norm: ``[head_dim]``, of each head before it is rotated; None if there are none.
        attention_out_norm, mlp_out_norm: ``[hidden]``, of what is added to the residual; None if there are none.
    """

    input_norm: torch.Tensor
    qkv: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Linear
    attention_out_norm: torch.Tensor | None
    gate: HiddenGate | QueryGate | None
    post_attention_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    mlp_out_norm: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Everything the model reads.

    Attributes:
        embedding: ``[vocab, hidden]``, in the dtype that weights are stored in.
        norm: ``[hidden]``.
    """

    embedding: torch.Tensor
    layers: list[LayerWeights]
    norm: torch.Tensor
    head: Linear


@dataclass(frozen=True, slots=True)
class ProductFactories:
    """How products are made.

    Attributes:
        inner: of q, k, v, gate and up, whose outputs stay within attention and MLP.
        outer: of o_proj and down_proj, whose results are added to the rows.
        head: of the product that gives logits.
    """

    inner: LinearFactory
    outer: LinearFactory
    head: LinearFactory


def build_weights(
    config: ModelConfig,
    tensors: Iterable[tuple[str, torch.Tensor]],
    make: ProductFactories,
    dtype: torch.dtype,
) -> ModelWeights:
    """Make the products of a checked checkpoint.

    Args:
        tensors: (name, tensor) in any order, on the model's device and in the weights' dtype; a layer is built when
            its last tensor has come.
        dtype: of activations; the tensors that are not the weight of a product are converted to it.

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
            layers[int(index_text)] = _build_layer(config, pending.pop(int(index_text)), make, dtype)
    if pending:
        raise CheckpointError(f"layers {sorted(pending)} are incomplete")
    embedding = outer["model.embed_tokens.weight"]
    head = make.head(embedding if config.tie_word_embeddings else outer["lm_head.weight"], None)
    ordered = [layers[index] for index in range(config.num_layers)]
    return ModelWeights(embedding, ordered, outer["model.norm.weight"].to(dtype), head)


def _tensors_per_layer(config: ModelConfig) -> int:
    return sum(name.startswith("model.layers.0.") for name in expected_tensors(config))


def _build_layer(
    config: ModelConfig, tensors: Tensors, make: ProductFactories, dtype: torch.dtype
) -> LayerWeights:
    def product(make: LinearFactory, *names: str) -> Linear:
        """The products of `names` side by side, as one."""
        weight = torch.cat([tensors[f"{name}.weight"] for name in names])
        has_bias = f"{names[0]}.bias" in tensors
        return make(weight, torch.cat([tensors[f"{name}.bias"] for name in names]) if has_bias else None)

    def vector(name: str) -> torch.Tensor | None:
        return tensors[name].to(dtype) if name in tensors else None

    return LayerWeights(
        input_norm=tensors["input_layernorm.weight"].to(dtype),
        qkv=product(make.inner, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        query_norm=vector("self_attn.q_norm.weight"),
        key_norm=vector("self_attn.k_norm.weight"),
        output=product(make.outer, "self_attn.o_proj"),
        attention_out_norm=vector("input_layernorm_2.weight"),
        gate=_gate(config, tensors, dtype) if config.loops.has_gates else None,
        post_attention_norm=tensors["post_attention_layernorm.weight"].to(dtype),
        gate_up=product(make.inner, "mlp.gate_proj", "mlp.up_proj"),
        down=product(make.outer, "mlp.down_proj"),
        mlp_out_norm=vector("post_attention_layernorm_2.weight"),
    )


def _gate(config: ModelConfig, tensors: Tensors, dtype: torch.dtype) -> HiddenGate | QueryGate:
    weight, bias = (tensors[f"self_attn.plt_gate.{part}"].to(dtype) for part in ("weight", "bias"))
    if not config.loops.gate_on_hidden:
        return QueryGate(weight, bias)
    return HiddenGate(tensors["self_attn.plt_gate.gate_norm.weight"].to(dtype), weight, bias)

"""One pass of a looped transformer over a flat batch of rows.

Formulas: Parallel Loop Transformer (arXiv 2510.24824) and LoopCoder-V2 (arXiv 2606.18023). For position i and loop l:

    x[0][i] = E[i]
    x[l][i] = emb_scale · E[i] + hidden_scale · H[l-1][i - offset]      l ≥ 1, H[·][-1] = 0
    H[l][i] = norm(stack(x[l])[i])      (the norm only where `normalize_per_loop`)
    logits[i] = head(norm(stack(x[R-1])[i]))

The dense layers see ``[rows, hidden]`` and don't know which loop a row belongs to; the attention backend does.
"""

from dataclasses import dataclass

import torch

from engine.config import ModelConfig
from engine.rope import apply_rope, build_rope_cache
from engine.weights import GateWeights, LayerWeights, ModelWeights
from kernels import row_ops
from kernels.interface import AttentionBackend, AttentionBatch, LayerCache


@dataclass(frozen=True, slots=True)
class RowInputs:
    """What the rows of a pass start from.

    Attributes:
        token_ids: int64 ``[rows]``.
        positions: int64 ``[rows]``.
        later_rows: int64 ``[k]``: rows of loop ≥ 1.
        later_hidden: float32 ``[k, hidden]``: their ``H[l-1][i - offset]``.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    later_rows: torch.Tensor
    later_hidden: torch.Tensor


class LoopedModel:
    """The layers, applied once to every row."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, attention: AttentionBackend, max_model_len: int
    ) -> None:
        self.config = config
        self.weights = weights
        self.attention = attention
        self.cos, self.sin = build_rope_cache(config, max_model_len)

    def forward(self, inputs: RowInputs, batch: AttentionBatch, caches: list[LayerCache]) -> torch.Tensor:
        """Run the stack; returns float32 ``[rows, hidden]`` before the final norm."""
        x = self._embed(inputs)
        cos, sin = self.cos[inputs.positions], self.sin[inputs.positions]
        for layer, cache in zip(self.weights.layers, caches, strict=True):
            x = x + self._attend(layer, x, cos, sin, batch, cache)
            normed = row_ops.rms_norm(x, layer.post_attention_norm, self.config.rms_norm_eps)
            x = x + layer.down(row_ops.silu_mul(layer.gate_up(normed)))
        return x

    def next_loop_hidden(self, x: torch.Tensor) -> torch.Tensor:
        """``H`` of rows that a later loop reads, from `forward`'s output."""
        return self.normed(x) if self.config.loops.normalize_per_loop else x

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """float32 ``[rows, vocab]`` from `forward`'s output for rows of the last loop."""
        return self.weights.head(self.normed(x))

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """The model's final norm, the same weights for every loop."""
        return row_ops.rms_norm(x, self.weights.norm, self.config.rms_norm_eps)

    def _embed(self, inputs: RowInputs) -> torch.Tensor:
        x = self.weights.embedding[inputs.token_ids]
        if len(inputs.later_rows):
            scaled = x[inputs.later_rows] * self.config.loops.emb_scale
            x[inputs.later_rows] = scaled + inputs.later_hidden * self.config.loops.hidden_scale
        return x

    def _attend(
        self,
        layer: LayerWeights,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        batch: AttentionBatch,
        cache: LayerCache,
    ) -> torch.Tensor:
        config = self.config
        normed = row_ops.rms_norm(x, layer.input_norm, config.rms_norm_eps)
        heads = layer.qkv(normed).view(len(x), -1, config.head_dim)
        rotated = apply_rope(heads[:, : config.num_heads + config.num_kv_heads], cos, sin)
        queries = rotated[:, : config.num_heads].contiguous()
        keys = rotated[:, config.num_heads :].contiguous()
        values = heads[:, config.num_heads + config.num_kv_heads :].contiguous()
        self.attention.write(cache, keys, values, batch)
        gates = self._gates(layer.gate, x, queries) if layer.gate else None
        return layer.output(self.attention.attend(cache, queries, gates, batch).view(len(x), -1))

    def _gates(self, gate: GateWeights, x: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Share of the global part, ``[rows, heads]``."""
        if gate.product is None or gate.norm is None:
            return row_ops.sigmoid(row_ops.head_dots(queries, gate.weight, gate.bias))
        normed = row_ops.rms_norm(x, gate.norm, self.config.rms_norm_eps)
        return row_ops.sigmoid(gate.product(normed))

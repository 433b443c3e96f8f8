"""One pass of a looped transformer over a flat batch of rows.

Formulas: Parallel Loop Transformer (arXiv 2510.24824) and LoopCoder-V2 (arXiv 2606.18023). For position i and loop l:

    x[0][i] = E[i]
    x[l][i] = emb_scale · E[i] + hidden_scale · H[l-1][i - offset]      l ≥ 1, H[·][-1] = 0
    H[l][i] = norm(stack(x[l])[i])      (the norm only where `normalize_per_loop`)
    logits[i] = head(norm(stack(x[R-1])[i]))

The dense layers see ``[rows, hidden]`` and don't know which loop a row belongs to; the kernel backend does.
"""

from dataclasses import dataclass
from functools import partial

import torch

from engine.config import ModelConfig
from engine.tap import Tap
from engine.weights import LayerWeights, ModelWeights
from kernels.interface import KernelBackend, LayerCache, RopeTable, RowBatch


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a pass reads of earlier passes and leaves to later ones. The last row of each tensor is never read.

    Attributes:
        caches: keys and values per layer.
        carries: ``[slots + 2, hidden]``: H vectors on their way between loops; slot 0 stays zero.
        block_hidden: ``[blocks + 1, hidden]``: H at each block's last position, for prefix caching.
    """

    caches: list[LayerCache]
    carries: torch.Tensor
    block_hidden: torch.Tensor


class LoopedModel:
    """The layers, applied once to every row."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, kernels: KernelBackend, rope: RopeTable
    ) -> None:
        self.config = config
        self.weights = weights
        self.kernels = kernels
        self.rope = rope

    def run_layers(self, batch: RowBatch, state: ModelState, tap: Tap | None = None) -> torch.Tensor:
        """Run the stack on every row and keep what later passes need.

        Args:
            tap: is shown what is computed.

        Returns:
            ``[rows, hidden]`` after the final norm.
        """
        loops, kernels, eps = self.config.loops, self.kernels, self.config.rms_norm_eps
        weights = self.weights
        x = kernels.loop_input(weights.embedding, state.carries, batch, loops.emb_scale, loops.hidden_scale)
        normed = kernels.rms_norm(x, weights.layers[0].input_norm, eps)
        next_norms = [*(layer.input_norm for layer in weights.layers[1:]), weights.norm]
        for layer, cache, next_norm in zip(weights.layers, state.caches, next_norms, strict=True):
            if tap is not None:
                tap.residual(x)
            attended = self._attend(layer, x, normed, batch, cache, tap)
            if layer.attention_out_norm is not None:
                attended = kernels.rms_norm(attended, layer.attention_out_norm, eps)
            x, normed = kernels.add_rms_norm(x, attended, layer.post_attention_norm, eps)
            update = layer.down(kernels.silu_mul(layer.gate_up(normed)))
            if layer.mlp_out_norm is not None:
                update = kernels.rms_norm(update, layer.mlp_out_norm, eps)
            x, normed = kernels.add_rms_norm(x, update, next_norm, eps)
        hidden = normed if loops.normalize_per_loop else x
        kernels.keep_hidden(hidden, state.carries, state.block_hidden, batch)
        if tap is not None:
            tap.residual(x)
            tap.hidden(hidden, normed)
        return normed

    def logits(self, normed: torch.Tensor) -> torch.Tensor:
        """float32 ``[rows, vocab]``: what a loop gives, if it is the last, of rows that `run_layers` returned."""
        return self.weights.head(normed).float()

    def _attend(
        self,
        layer: LayerWeights,
        x: torch.Tensor,
        normed: torch.Tensor,
        batch: RowBatch,
        cache: LayerCache,
        tap: Tap | None,
    ) -> torch.Tensor:
        kernels = self.kernels
        qkv = self._norm_heads(layer, layer.qkv(normed))
        queries = kernels.rotate_and_write(qkv, self.rope, cache, batch)
        gates = kernels.gates(layer.gate, x, queries, self.config.rms_norm_eps) if layer.gate else None
        if tap is not None:
            if gates is not None:
                tap.gates(gates)
            tap.queries(queries, partial(kernels.read_keys, cache))
        return layer.output(kernels.attend(cache, queries, gates, batch))

    def _norm_heads(self, layer: LayerWeights, qkv: torch.Tensor) -> torch.Tensor:
        """q, k and v with each head's q and k normed, where the layer has norms for them."""
        if layer.query_norm is None or layer.key_norm is None:
            return qkv
        config, eps = self.config, self.config.rms_norm_eps
        heads = qkv.view(len(qkv), -1, config.head_dim)
        queries, keys, values = heads.split(
            [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1
        )

        def normed(part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            # Not `reshape`: of one head it would be a view with gaps between its rows.
            rows = part.contiguous().view(-1, config.head_dim)
            return self.kernels.rms_norm(rows, weight, eps).view(part.shape)

        parts = (normed(queries, layer.query_norm), normed(keys, layer.key_norm), values)
        return torch.cat(parts, dim=1).flatten(1)

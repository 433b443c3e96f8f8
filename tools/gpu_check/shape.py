"""The model that is measured: LoopCoder-V2's layers with random weights, as many of them as fit."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.checkpoint import expected_tensors
from engine.config import parse_config

LOOPCODER_V2: dict[str, Any] = {
    "model_type": "iquestpltcoder",
    "architectures": ["IQuestPLTCoderForCausalLM"],
    "vocab_size": 76800,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 14,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "torch_dtype": "bfloat16",
    "plt_num_loops": 3,
    "plt_window_size": [64, 0],
    "plt_normalize_per_loop": True,
    "plt_emb_scale": 0.707,
    "plt_hidden_scale": 0.053,
    "plt_gate_use_hidden_states": False,
}
"""The released config; three loops here, so that fewer can be chosen by an override."""

TINY: dict[str, Any] = {
    **LOOPCODER_V2,
    **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256},
    **{"plt_window_size": [8, 0], "torch_dtype": "float32"},
}
"""For trying this tool without a GPU."""


def layers_that_fit(config: dict[str, Any], memory: int, copies: int) -> int:
    """Layers of which `copies` models, with a quarter of the memory left for caches, fit into `memory` bytes."""

    def size(layers: int) -> int:
        shapes = expected_tensors(parse_config({**config, "num_hidden_layers": layers})).values()
        return 2 * sum(torch.Size(spec.shape).numel() for spec in shapes)

    fitting = [n for n in range(1, config["num_hidden_layers"] + 1) if copies * size(n) < 0.75 * memory]
    return max(fitting, default=1)


def write_checkpoint(directory: Path, config: dict[str, Any], device: torch.device) -> None:
    """Random weights that keep activations O(1), and no tokenizer: the engine alone reads them.

    A file per layer, each written before the next is made, so that memory holds one layer at a time.
    """
    generator = torch.Generator(device).manual_seed(0)
    parsed = parse_config(config)
    dtype = getattr(torch, parsed.torch_dtype)
    specs = expected_tensors(parsed)
    files = {name: f"model-{_part(name)}.safetensors" for name in specs}
    for file in dict.fromkeys(files.values()):
        tensors = {}
        for name in (name for name in specs if files[name] == file):
            tensor = torch.empty(specs[name].shape, dtype=dtype, device=device)
            if name.endswith("norm.weight"):
                tensor.fill_(1.0)
            else:
                tensor.normal_(0.0, specs[name].shape[-1] ** -0.5, generator=generator)
            tensors[name] = tensor.cpu()
        save_file(tensors, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (directory / "config.json").write_text(json.dumps(config))


def _part(name: str) -> str:
    return name.split(".")[2] if name.startswith("model.layers.") else "outer"

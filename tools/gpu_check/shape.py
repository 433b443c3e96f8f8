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
    """Random weights that keep activations O(1), a file per layer and no tokenizer: the engine alone reads them."""
    generator = torch.Generator(device).manual_seed(0)
    parsed = parse_config(config)
    dtype = getattr(torch, parsed.torch_dtype)
    files: dict[str, dict[str, torch.Tensor]] = {}
    for name, spec in expected_tensors(parsed).items():
        part = name.split(".")[2] if name.startswith("model.layers.") else "outer"
        if name.endswith("norm.weight"):
            tensor = torch.ones(spec.shape, device=device)
        else:
            tensor = torch.randn(spec.shape, generator=generator, device=device) * spec.shape[-1] ** -0.5
        files.setdefault(f"model-{part}.safetensors", {})[name] = tensor.to(dtype).cpu()
    for file, tensors in files.items():
        save_file(tensors, directory / file)
    index = {"weight_map": {name: file for file, tensors in files.items() for name in tensors}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config))

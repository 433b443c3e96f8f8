"""The same random weights in every peer's format.

Outputs are not compared: rotary layouts and the loops' mathematics differ between the peers' models, shapes and the
number of multiplications don't.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.make_checkpoint import make_checkpoint, random_config

CONTEXT = 8192
COMMON_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where the weights are.

    Attributes:
        looped: loopserve's: a PLT checkpoint, two loops, window 64.
        llama: without loops, for transformers and vLLM.
        iquestloopcoder: two loops with mlx-lm's names.
        llama_gguf, nanbeige_gguf: without loops and with two, for llama.cpp.
    """

    looped: Path
    llama: Path
    iquestloopcoder: Path
    llama_gguf: Path
    nanbeige_gguf: Path


def big_config() -> dict[str, object]:
    """The shape of the comparison: 224 M parameters."""
    return random_config(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=14,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        plt_window_size=[64, 0],
    )


def write_checkpoints(
    directory: Path, gguf_python: Path, config: dict[str, object] | None = None
) -> Checkpoints:
    """Write what is not there yet.

    Args:
        gguf_python: an interpreter that has the package gguf.
        config: another shape than that of the comparison.
    """
    made = Checkpoints(
        directory / "looped",
        directory / "llama",
        directory / "iquestloopcoder",
        directory / "llama.gguf",
        directory / "nanbeige.gguf",
    )
    config = config or big_config()
    if not made.looped.exists():
        make_checkpoint(made.looped, config, seed=0)
    if not made.llama.exists():
        _write_llama(made, config)
    if not made.iquestloopcoder.exists():
        _write_iquestloopcoder(made, config)
    for path, loops in ((made.llama_gguf, 1), (made.nanbeige_gguf, 2)):
        if not path.exists():
            script = Path(__file__).parent / "write_gguf.py"
            subprocess.run([gguf_python, script, made.llama, path, str(loops)], check=True)
    return made


def _write_llama(made: Checkpoints, config: dict[str, object]) -> None:
    tensors = load_file(made.looped / "model.safetensors")
    plain = {name: tensor for name, tensor in tensors.items() if "plt_gate" not in name}
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32"}
    _write(made.llama, made.looped, config, own, plain)


def _write_iquestloopcoder(made: Checkpoints, config: dict[str, object]) -> None:
    tensors = load_file(made.llama / "model.safetensors")
    heads, head_dim, layers = (
        int(str(config[key])) for key in ("num_attention_heads", "head_dim", "num_hidden_layers")
    )
    generator = torch.Generator().manual_seed(1)
    for layer in range(layers):
        gate = f"model.gate_projections.{layer}"
        tensors[f"{gate}.weight"] = torch.randn(heads, head_dim, generator=generator) / head_dim**0.5
        tensors[f"{gate}.bias"] = torch.zeros(heads)
    own = {"model_type": "iquestloopcoder", "loop_num": 2, "loop_window_size": 64}
    _write(made.iquestloopcoder, made.looped, config, own, tensors)


def _write(
    directory: Path,
    looped: Path,
    config: dict[str, object],
    own: Mapping[str, object],
    tensors: dict[str, torch.Tensor],
) -> None:
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    common = {key: config[key] for key in COMMON_KEYS}
    (directory / "config.json").write_text(json.dumps({**common, **own}))
    shutil.copy(looped / "tokenizer.json", directory)
    tokenizer = json.loads((looped / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))

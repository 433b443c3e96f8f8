"""Which tensors a checkpoint of each family must have, may have, and must not have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint import load_tensors, open_checkpoint
from engine.config import parse_config
from engine.errors import CheckpointError
from tests.family_configs import TINY, family_config
from tests.make_checkpoint import make_checkpoint


def written(directory: Path, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    make_checkpoint(directory, family_config(name, **changes), seed=0)
    return load_file(directory / "model.safetensors")


def loaded(directory: Path, name: str, **changes: Any) -> set[str]:
    checkpoint = open_checkpoint(directory, parse_config(family_config(name, **changes)))
    return {name for name, _ in load_tensors(checkpoint, torch.float32)}


@pytest.mark.parametrize("name", TINY)
def test_a_lost_and_a_foreign_tensor_are_refused(tmp_path: Path, name: str) -> None:
    tensors = written(tmp_path, name)
    assert loaded(tmp_path, name)
    for lost in [each for each in tensors if "early_exit_gate" not in each]:
        save_file(
            {key: value for key, value in tensors.items() if key != lost}, tmp_path / "model.safetensors"
        )
        with pytest.raises(CheckpointError, match="lack"):
            loaded(tmp_path, name)
    for foreign in ("model.layers.0.self_attn.plt_gate.gate_norm.weight", "model.layers.0.mlp.gate.weight"):
        save_file({**tensors, foreign: torch.zeros(4)}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"hold '{foreign}'"):
            loaded(tmp_path, name)


def test_a_looped_model_relabelled_as_a_plain_one_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "iquestloopcoder")
    with pytest.raises(CheckpointError, match="gate_projections"):
        loaded(tmp_path, "llama")
    written(tmp_path, "ouro")
    with pytest.raises(CheckpointError, match="early_exit_gate"):
        loaded(tmp_path, "llama", num_key_value_heads=4)


def test_gates_of_a_model_cut_to_one_loop_are_left(tmp_path: Path) -> None:
    tensors = written(tmp_path, "iquestloopcoder")
    assert len(loaded(tmp_path, "iquestloopcoder")) == len(tensors)
    ungated = {name for name in tensors if "gate_projections" not in name}
    assert loaded(tmp_path, "iquestloopcoder", loop_num=1) == ungated


@pytest.mark.parametrize("name", ["llama", "qwen2", "nanbeige"])
def test_rotary_buffers_of_old_checkpoints_are_left(tmp_path: Path, name: str) -> None:
    tensors = written(tmp_path, name)
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.zeros(8) for layer in (0, 1)}
    save_file({**tensors, **buffers}, tmp_path / "model.safetensors")
    assert loaded(tmp_path, name) == set(tensors)


def test_ouros_exit_gate_is_not_read(tmp_path: Path) -> None:
    tensors = written(tmp_path, "ouro")
    assert loaded(tmp_path, "ouro") == {name for name in tensors if "early_exit_gate" not in name}

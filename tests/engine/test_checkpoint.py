"""Checkpoints as they should be load exactly; every way of being wrong is one error that names the tensor."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint import Checkpoint, expected_tensors, load_tensors, open_checkpoint
from engine.config import load_config, parameter_count, parse_config
from engine.errors import CheckpointError
from engine.families.registry import family_of
from tests.engine.test_config import RELEASED
from tests.make_checkpoint import make_checkpoint, random_config, random_tensors

EMBEDDING, GATE = "model.embed_tokens.weight", "model.layers.1.self_attn.plt_gate.weight"
Tensors = dict[str, torch.Tensor]


def _open(directory: Path, **overrides: Any) -> Checkpoint:
    return open_checkpoint(directory, load_config(directory, overrides))


def _refused(directory: Path, *named: str, **overrides: Any) -> None:
    """Opening or loading is refused with one line holding all of `named`."""
    with pytest.raises(CheckpointError) as caught:
        list(load_tensors(_open(directory, **overrides), torch.float32))
    assert "\n" not in str(caught.value)
    for text in named:
        assert text in str(caught.value)


def _change(directory: Path, change: Callable[[Tensors], object]) -> None:
    """Rewrite model.safetensors after `change` has worked on its tensors."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


@pytest.fixture
def single(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "single", random_config(), seed=0)
    return tmp_path / "single"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "sharded", random_config(), seed=0, shards=3)
    return tmp_path / "sharded"


def _edit_index(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_released_layout_has_171_tensors() -> None:
    config = parse_config(RELEASED)
    expected = expected_tensors(config)
    assert len(expected) == 171
    assert expected["model.layers.13.self_attn.plt_gate.weight"].shape == (40, 5120)
    assert expected["model.layers.0.self_attn.k_proj.weight"].shape == (1024, 5120)
    assert sum(torch.Size(spec.shape).numel() for spec in expected.values()) == parameter_count(config)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"plt_num_loops": 1},
        {"plt_gate_use_hidden_states": False, "tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True, "plt_num_loops": 4},
    ],
)
def test_every_tensor_arrives_unchanged(tmp_path: Path, shards: int, changes: dict[str, Any]) -> None:
    config = random_config(**changes)
    make_checkpoint(tmp_path, config, seed=3, shards=shards)
    seen: list[tuple[int, int]] = []
    checkpoint = _open(tmp_path)
    loaded = dict(load_tensors(checkpoint, torch.float32, lambda done, total: seen.append((done, total))))
    original = random_tensors(config, 3)
    assert loaded.keys() == original.keys() == expected_tensors(parse_config(config)).keys()
    assert all(torch.equal(loaded[name], original[name]) for name in original)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (checkpoint.num_bytes, checkpoint.num_bytes)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_is_widened_exactly(tmp_path: Path, stored: str) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0, dtype=stored)
    on_disk = load_file(tmp_path / "model.safetensors")
    for name, tensor in load_tensors(_open(tmp_path), torch.float32):
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert torch.equal(tensor, on_disk[name].float())


def test_loaded_tensors_do_not_look_into_the_file(single: Path) -> None:
    loaded = dict(load_tensors(_open(single), torch.float32))
    before = loaded[EMBEDDING].clone()
    path = single / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded[EMBEDDING], before)


def test_a_model_cut_to_one_loop_leaves_its_gates(single: Path) -> None:
    names = {name for name, _ in load_tensors(_open(single, plt_num_loops=1), torch.float32)}
    assert not any("plt_gate" in name for name in names)
    assert len(names) == len(random_tensors(random_config(), 0)) - 2 * 3


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("model.layers.3.self_attn.loop_gate_proj.bias", "model.layers.3.self_attn.plt_gate.bias"),
        (
            "model.layers.3.self_attn.loop_gate_proj.gate_norm.weight",
            "model.layers.3.self_attn.plt_gate.gate_norm.weight",
        ),
        ("gate_projections.12.weight", "model.layers.12.self_attn.plt_gate.weight"),
        ("model.gate_projections.0.bias", "model.layers.0.self_attn.plt_gate.bias"),
        ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.gate_proj.weight"),
    ],
)
def test_aliases(stored: str, name: str) -> None:
    assert family_of("iquestpltcoder").canonical_name(stored) == name


def test_aliased_gates_are_loaded_under_their_own_names(single: Path) -> None:
    def rename(tensors: Tensors) -> None:
        for name in [name for name in tensors if "plt_gate" in name]:
            tensors[name.replace("plt_gate", "loop_gate_proj")] = tensors.pop(name)

    _change(single, rename)
    loaded = dict(load_tensors(_open(single), torch.float32))
    assert torch.equal(loaded[GATE], random_tensors(random_config(), 0)[GATE])


def test_a_tied_model_may_repeat_its_embedding(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(tie_word_embeddings=True), seed=0)
    _change(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDING].clone()}))
    assert "lm_head.weight" not in dict(load_tensors(_open(tmp_path), torch.float32))
    _change(tmp_path, lambda tensors: tensors["lm_head.weight"].mul_(2))
    _refused(tmp_path, "lm_head.weight", "tie_word_embeddings")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(GATE), [GATE, "lack"]),
        (
            lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(1)}),
            ["model.layers.2.mlp.up_proj"],
        ),
        (lambda t: t.update({GATE: torch.ones(4, 63)}), [GATE, "[4, 63]", "[4, 64]"]),
        (lambda t: t.update({GATE: torch.ones(64, 4)}), [GATE, "[64, 4]"]),
        (lambda t: t.update({GATE: t[GATE].double()}), [GATE, "F64"]),
        (lambda t: t.update({GATE: t[GATE].to(torch.int32)}), [GATE, "I32"]),
        (lambda t: t.update({GATE.replace("plt_gate", "loop_gate_proj"): t[GATE].clone()}), [GATE, "twice"]),
        (lambda t: t[GATE][1, 2].fill_(float("nan")), [GATE, "not finite"]),
        (lambda t: t[GATE][1, 2].fill_(float("inf")), [GATE, "not finite"]),
        (lambda t: t.clear() or t.update(x=torch.ones(1)), ["lack", "model.embed_tokens.weight", "more"]),
    ],
)
def test_a_wrong_tensor_is_named(single: Path, change: Callable[[Tensors], object], named: list[str]) -> None:
    _change(single, change)
    _refused(single, *named)


def test_a_value_too_big_for_the_wanted_dtype_is_named(single: Path) -> None:
    _change(single, lambda tensors: tensors[GATE][0, 0].fill_(1e6))
    with pytest.raises(
        CheckpointError, match=r"plt_gate\.weight has a value that is not finite in torch\.float16"
    ):
        list(load_tensors(_open(single), torch.float16))


def test_gates_of_the_other_kind_are_refused(single: Path) -> None:
    _refused(single, "gate_norm.weight", "no use", plt_gate_use_hidden_states=False)


def test_layers_left_over_are_refused(single: Path) -> None:
    _refused(single, "model.layers.1.", "and", "more", num_hidden_layers=1)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "", 3, ".safetensors"]
)
def test_an_index_that_names_odd_files_is_refused(sharded: Path, name: object) -> None:
    _edit_index(sharded, lambda weight_map: weight_map.update({GATE: name}))
    _refused(sharded, "plain name")


def test_an_index_that_disagrees_with_the_files_is_refused(sharded: Path) -> None:
    _edit_index(sharded, lambda weight_map: weight_map.update({GATE: "model-00001-of-00003.safetensors"}))
    _refused(sharded, "disagree", GATE)
    _edit_index(sharded, lambda weight_map: weight_map.pop(GATE))
    _refused(sharded, "disagree", GATE, "no file")
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": []}')
    _refused(sharded, "weight_map")
    (sharded / "model.safetensors.index.json").write_text("{")
    _refused(sharded, "not valid JSON")


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    path = sharded / "model-00002-of-00003.safetensors"
    tensors = load_file(path)
    name = next(iter(load_file(sharded / "model-00001-of-00003.safetensors")))
    save_file({**tensors, name: torch.ones(1)}, path)
    _refused(sharded, name, "twice", "00001", "00002")


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    _refused(sharded, "model-00002-of-00003.safetensors", "missing")


def test_two_sets_of_weights_are_refused(sharded: Path) -> None:
    save_file(random_tensors(random_config(), 0), sharded / "model.safetensors")
    _refused(sharded, "both")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_never_read(single: Path, name: str) -> None:
    (single / "model.safetensors").rename(single / name)
    _refused(single, name, "safetensors")


def test_no_weights_at_all(single: Path) -> None:
    (single / "model.safetensors").unlink()
    _refused(single, "neither")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60) + b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}      ' + b"\0" * 16,
        struct.pack("<Q", 60) + b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}     ' + b"\0" * 8,
    ],
)
def test_a_malformed_file_is_refused(single: Path, data: bytes) -> None:
    (single / "model.safetensors").write_bytes(data)
    _refused(single, "model.safetensors is not a readable safetensors file")


def test_a_truncated_file_is_refused(single: Path) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    _refused(single, "not a readable safetensors file")


def test_a_file_that_vanishes_between_opening_and_loading(single: Path) -> None:
    checkpoint = _open(single)
    (single / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="Can't read"):
        list(load_tensors(checkpoint, torch.float32))


def test_links_may_stay_inside_or_lead_to_the_hub_caches_blobs(single: Path, tmp_path: Path) -> None:
    file = single / "model.safetensors"
    inside = single / "weights.safetensors"
    file.rename(inside)
    file.symlink_to(inside.name)
    assert _open(single).tensors

    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    blobs.mkdir(parents=True)
    make_checkpoint(snapshot, random_config(), seed=0)
    (snapshot / "model.safetensors").rename(blobs / "0123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert _open(snapshot).tensors


def test_links_that_lead_out_are_refused(single: Path, tmp_path: Path) -> None:
    file = single / "model.safetensors"
    outside = tmp_path / "blobs"
    file.rename(outside)
    file.symlink_to(outside)
    _refused(single, "leads out")
    outside.unlink()
    _refused(single, "missing")
    file.unlink()
    file.symlink_to(file)
    _refused(single, "circle")

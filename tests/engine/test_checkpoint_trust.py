"""A whole model directory as an attacker would make it: no code of it runs, and nothing is allocated on its word."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint import load_tensors, open_checkpoint
from engine.config import load_config
from engine.errors import CheckpointError, ConfigError, ModelError
from engine.tokenizer import Tokenizer
from tests.make_checkpoint import make_checkpoint, random_config


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "model", random_config(), seed=0)
    return tmp_path / "model"


def load(directory: Path) -> None:
    Tokenizer.load(directory)
    list(load_tensors(open_checkpoint(directory, load_config(directory, {})), torch.float32))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


class Touch:
    """Its pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl"])
def test_no_code_of_a_model_runs(model: Path, tmp_path: Path, suffix: str) -> None:
    marker = tmp_path / "marker"
    (model / f"pytorch_model.{suffix}").write_bytes(pickle.dumps(Touch(marker)))
    code = f"import os\nos.mkdir({str(marker)!r})\n"
    for name in (
        "modeling.py",
        "configuration.py",
        "tokenization.py",
        "sitecustomize.py",
        "torch.py",
        "conftest.py",
    ):
        (model / name).write_text(code)
    references = {
        "AutoConfig": "configuration.C",
        "AutoModelForCausalLM": "modeling.M",
        "AutoTokenizer": ["t.T", None],
    }
    change_json(model / "config.json", auto_map=references, custom_pipelines={"x": {"impl": "modeling.P"}})
    change_json(model / "tokenizer_config.json", auto_map=references, tokenizer_class="Evil")
    load(model)
    (model / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"holds only pickled weights .*can run code and are never read"
    ):
        load(model)
    (model / "model.safetensors").write_bytes(pickle.dumps(Touch(marker)))  # by another name
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(model)
    assert not marker.exists()


# What a fresh interpreter that has imported everything takes for looking at models: the error of each, then the seconds
# of the slowest and the MiB of the largest.
MEASURED = """
import sys, time
from pathlib import Path
from engine.checkpoint import open_checkpoint
from engine.config import load_config
from engine.errors import ModelError
from engine.tokenizer import Tokenizer
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before, slowest = peak(), 0
for directory in map(Path, sys.argv[1:]):
    started = time.process_time()
    try:
        config = load_config(directory, {})
        Tokenizer.load(directory)
        open_checkpoint(directory, config)
        print("accepted")
    except ModelError as error:
        print(error)
    slowest = max(slowest, time.process_time() - started)
print(slowest, (peak() - before) / 1024)
"""


def measured(directories: list[Path]) -> list[str]:
    """The errors of models that are refused within 5 s and 300 MiB."""
    command = [sys.executable, "-c", MEASURED, *map(str, directories)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    *errors, figures = done.stdout.splitlines()
    seconds, mebibytes = map(float, figures.split())
    assert seconds < 5
    assert mebibytes < 300
    assert len(errors) == len(directories)
    return errors


def copies(model: Path, count: int) -> list[Path]:
    directories = [model.parent / f"copy{index}" for index in range(count)]
    for directory in directories:
        shutil.copytree(model, directory)
    return directories


LARGEST = {
    **{"vocab_size": 4096, "hidden_size": 1 << 17, "intermediate_size": 1 << 16, "num_hidden_layers": 30},
    **{"num_attention_heads": 128, "num_key_value_heads": 1, "head_dim": 64, "plt_num_loops": 64},
}
SIZES: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 10**12}, "hidden_size must be an integer from 1 to 131072"),
    ({"vocab_size": 10**12}, "vocab_size must be"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers must be"),
    ({"plt_num_loops": 10**12}, "plt_num_loops must be"),
    ({"plt_window_size": [10**12, 0]}, "plt_window_size"),
    ({"max_position_embeddings": 10**12}, "max_position_embeddings must be"),
    ({"intermediate_size": -1}, "intermediate_size must be"),
    ({"head_dim": 10**400}, "head_dim must be"),
    (
        {"hidden_size": 1 << 17, "num_hidden_layers": 1024, "intermediate_size": 1 << 20},
        "parameters, at most",
    ),
    (LARGEST, "shape|lack"),  # 840 GB by the config, which the file doesn't have
]


def test_sizes_are_checked_before_anything_is_allocated(model: Path) -> None:
    directories = copies(model, len(SIZES))
    for directory, (values, _) in zip(directories, SIZES, strict=True):
        change_json(directory / "config.json", **values)
    for error, (_, message) in zip(measured(directories), SIZES, strict=True):
        assert re.search(message, error)


def test_a_million_tensors_and_endless_files_cost_little(model: Path) -> None:
    """Files of a tebibyte are sparse here; reading one would take all memory."""
    full, many, *huge, index = copies(model, 6)
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(f'"t{number}":{empty}' for number in range(1_000_000)) + "}").encode()
    (full / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    header = ("{" + ",".join(f'"{number}":{{}}' for number in range(600_000)) + "}").encode()
    (many / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for directory, name in zip(huge, ("config.json", "tokenizer.json", "tokenizer_config.json"), strict=True):
        os.truncate(directory / name, 1 << 40)
    (index / "model.safetensors").rename(index / "model.safetensors.index.json")
    os.truncate(index / "model.safetensors.index.json", 1 << 40)
    errors = measured([full, many, *huge, index])
    assert "at most 8388608 are read" in errors[0]
    assert "at most 32768 are read" in errors[1]
    assert all("larger than" in error for error in errors[2:])


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"],
)
def test_every_file_is_plain_and_the_directorys_own(model: Path, tmp_path: Path, name: str) -> None:
    (model / name).rename(tmp_path / name)
    (model / name).symlink_to(tmp_path / name)
    with pytest.raises(ModelError, match=f"{name} leads out of"):
        load(model)
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(ModelError, match=f"{name} is not a plain file"):
        load(model)
    (model / name).unlink()
    (model / name).mkdir()
    with pytest.raises(ModelError, match=f"{name} is not a plain file"):
        load(model)


def test_a_chat_template_can_not_be_another_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (model / "chat_template.jinja").symlink_to("../secret")
    with pytest.raises(ModelError, match="leads out"):
        Tokenizer.load(model)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_key_given_twice_is_refused_with_the_files_name(model: Path, name: str) -> None:
    text = (model / name).read_text()
    (model / name).write_text(text.rstrip().removesuffix("}") + ', "eos_token_id": 2, "eos_token_id": 2}')
    with pytest.raises(ModelError, match=f"{name} is not valid JSON: .*'eos_token_id' is there twice"):
        load(model)


def test_a_file_that_changes_between_the_check_and_the_loading_is_refused(model: Path) -> None:
    checkpoint = open_checkpoint(model, load_config(model, {}))
    data = bytearray((model / "model.safetensors").read_bytes())
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="changed while it was being loaded"):
        list(load_tensors(checkpoint, torch.float32))


def test_wrong_kinds_of_values_are_config_errors(model: Path) -> None:
    for value in ([], {}, "x", True, 1.5, None, -1, [[]], 10**30, 1e300):
        for key in ("hidden_size", "plt_num_loops", "plt_window_size", "rms_norm_eps"):
            if (key, value) == ("plt_num_loops", True):
                continue
            with pytest.raises(ConfigError, match=r"^config\.json: " + key):
                load_config(model, {key: value})

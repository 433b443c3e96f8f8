"""A checkpoint's safetensors files: every tensor accounted for before one is loaded, then one at a time.

Only safetensors are read, never pickles. `open_checkpoint` reads headers alone; `load_tensors` reads one tensor after
another, so loading needs one tensor's memory above the result.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import torch

from engine.config import ModelConfig
from engine.config_fields import shown
from engine.errors import CheckpointError
from engine.families.family import Family
from engine.families.registry import family_of
from engine.model_directory import has_file, open_file, read_json_object
from engine.safetensors_file import DTYPES, MAX_TENSORS, TensorEntry, read_header, read_tensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_INDEX_BYTES = 4 << 20
"""Twice what the most layers that are served need."""
MAX_SHARDS = 4096
_NAMES_SHOWN = 3
_PLAIN_NAME = r"[A-Za-z0-9][\w.-]{0,199}\.safetensors"

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class TensorSpec:
    """What the model needs under one name."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightFile:
    """A file as it was when its header was read.

    Attributes:
        identity: tells it from another file, or another state of it, under the same name.
    """

    name: str
    identity: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in one file.

    Attributes:
        name: the released layout's name.
        entry: where it is, and its name in the file, which may be an alias.
    """

    name: str
    file: WeightFile
    entry: TensorEntry


@dataclass(frozen=True)
class Checkpoint:
    """All tensors that the model needs, found and checked, none loaded.

    Attributes:
        tensors: in file order, which is the order that disks like.
        tied_head: the `lm_head.weight` of a model with tied embeddings, present though not needed.
    """

    model_dir: Path
    tensors: tuple[StoredTensor, ...]
    tied_head: StoredTensor | None

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of what is loaded."""
        return sum(tensor.entry.num_bytes for tensor in self.tensors)


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Names and shapes of what the model needs; gates only when there is a loop that uses them."""
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, config.hidden_size),
        "model.norm.weight": (config.hidden_size,),
    }
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    layer = _layer_shapes(config)
    for index in range(config.num_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return {name: TensorSpec(shape) for name, shape in shapes.items()}


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's tensors, by their names within the layer."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    projections = {
        "self_attn.q_proj": (q_width, hidden, config.attention_bias),
        "self_attn.k_proj": (kv_width, hidden, config.attention_bias),
        "self_attn.v_proj": (kv_width, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, q_width, config.output_bias),
        "mlp.gate_proj": (ffn, hidden, config.mlp_bias),
        "mlp.up_proj": (ffn, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, ffn, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config.sandwich_norms:
        shapes["input_layernorm_2.weight"] = (hidden,)
        shapes["post_attention_layernorm_2.weight"] = (hidden,)
    for name, (rows, columns, bias) in projections.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = (config.head_dim,)
        shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    if config.loops.has_gates:
        gate_inputs = hidden if config.loops.gate_on_hidden else config.head_dim
        shapes["self_attn.plt_gate.weight"] = (config.num_heads, gate_inputs)
        shapes["self_attn.plt_gate.bias"] = (config.num_heads,)
        if config.loops.gate_on_hidden:
            shapes["self_attn.plt_gate.gate_norm.weight"] = (hidden,)
    return shapes


def open_checkpoint(model_dir: Path, config: ModelConfig) -> Checkpoint:
    """Find and check every tensor by reading headers only.

    Names that the model's family spells otherwise are accepted. Two kinds of tensor may be there without being needed:
    what the family leaves unused, such as gates when the model is cut to one loop, and `lm_head.weight` when the
    embeddings are tied (`load_tensors` checks that it equals the embedding).

    Raises:
        CheckpointError: no safetensors, a malformed file, a file outside the model's directory, or a tensor that
            is missing, unexpected, duplicated, misshapen, of another dtype, or not where the index says.
    """
    family = family_of(config.model_type)
    files, index = _weight_files(model_dir)
    stored: list[StoredTensor] = []
    for name in files:
        stored += _read_header(model_dir, name, family)
        if len(stored) > MAX_TENSORS:
            raise CheckpointError(f"{model_dir} has more than the {MAX_TENSORS} tensors that are read.")
    by_name: dict[str, StoredTensor] = {}
    for tensor in stored:
        other = by_name.setdefault(tensor.name, tensor)
        if other is not tensor:
            raise CheckpointError(
                f"Tensor {shown(tensor.name)} is there twice: as {shown(other.entry.name)} in {other.file.name} "
                f"and as {shown(tensor.entry.name)} in {tensor.file.name}."
            )
    if index is not None:
        _check_index(index, stored)
    expected = expected_tensors(config)
    _check_names(expected, by_name, family, config)
    for tensor in stored:
        if tensor.name in expected or tensor.name == HEAD:
            _check_tensor(tensor, expected[EMBEDDING if tensor.name == HEAD else tensor.name])
    return Checkpoint(
        model_dir=model_dir,
        tensors=tuple(tensor for tensor in stored if tensor.name in expected),
        tied_head=by_name.get(HEAD) if config.tie_word_embeddings else None,
    )


def load_tensors(
    checkpoint: Checkpoint, dtype: torch.dtype, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, contiguous CPU tensor of `dtype`), each with memory of its own.

    Args:
        progress: called after each tensor with (bytes read, bytes in all), counted on disk.

    Raises:
        CheckpointError: a file changed or can't be read, a value isn't finite in `dtype`, or a present
            `lm_head.weight` of a tied model differs from the embedding.
    """
    if checkpoint.tied_head is not None:
        _check_tied_head(checkpoint, checkpoint.tied_head)
    done, total = 0, checkpoint.num_bytes
    staging = _staging(checkpoint, dtype)
    for weight_file, tensors in groupby(checkpoint.tensors, key=lambda tensor: tensor.file):
        with _reopened(checkpoint.model_dir, weight_file) as opened:
            for tensor in tensors:
                converted = DTYPES[tensor.entry.dtype] != dtype
                values = _read(opened, tensor, staging if converted else None).to(dtype)
                if not all(torch.isfinite(bound) for bound in values.aminmax()):
                    raise CheckpointError(f"Tensor {tensor.name} has a value that is not finite in {dtype}.")
                yield tensor.name, values
                done += tensor.entry.num_bytes
                if progress is not None:
                    progress(done, total)


def _weight_files(model_dir: Path) -> tuple[list[str], dict[str, str] | None]:
    """Names of the files to read, and the index's tensor-to-file map where there is one."""
    single, index = has_file(model_dir, SINGLE_FILE), has_file(model_dir, INDEX_FILE)
    if single and index:
        raise CheckpointError(
            f"{model_dir} holds both {SINGLE_FILE} and {INDEX_FILE}; keep the one that is meant."
        )
    if single:
        return [SINGLE_FILE], None
    if index:
        weight_map = _read_index(model_dir)
        return sorted(set(weight_map.values())), weight_map
    pickles = sorted(path.name for path in model_dir.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{model_dir} holds only pickled weights ({shown(pickles[0])}), which can run code and are never read; "
            "convert them to safetensors."
        )
    raise CheckpointError(f"{model_dir} holds neither {SINGLE_FILE} nor {INDEX_FILE}.")


def _read_index(model_dir: Path) -> dict[str, str]:
    weight_map = read_json_object(model_dir, INDEX_FILE, MAX_INDEX_BYTES, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{INDEX_FILE}: weight_map must be a non-empty object, got {shown(weight_map)}."
        )
    for file in weight_map.values():
        plain = isinstance(file, str) and re.fullmatch(_PLAIN_NAME, file, re.ASCII)
        if not plain:
            raise CheckpointError(f"{INDEX_FILE}: {shown(file)} is not a plain name of a .safetensors file.")
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise CheckpointError(f"{INDEX_FILE} names more than {MAX_SHARDS} files.")
    return weight_map


def _read_header(model_dir: Path, name: str, family: Family) -> list[StoredTensor]:
    with open_file(model_dir, name, CheckpointError) as opened:
        file = WeightFile(name, _identity(opened))
        entries = read_header(opened, name)
    return [StoredTensor(family.canonical_name(entry.name), file, entry) for entry in entries]


def _identity(opened: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(opened.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_index(index: dict[str, str], stored: list[StoredTensor]) -> None:
    actual = {tensor.entry.name: tensor.file.name for tensor in stored}
    wrong = sorted(name for name in index.keys() | actual.keys() if index.get(name) != actual.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{INDEX_FILE} and the files disagree about {_listed(wrong)}: {shown(name)} should be in "
            f"{index.get(name, 'no file')} and is in {actual.get(name, 'none of them')}."
        )


def _check_names(
    expected: Iterable[str], present: dict[str, StoredTensor], family: Family, config: ModelConfig
) -> None:
    missing = [name for name in expected if name not in present]
    if missing:
        raise CheckpointError(f"The weights lack {_listed(missing)}.")
    beside = present.keys() - set(expected) - ({HEAD} if config.tie_word_embeddings else set())
    unexpected = sorted(
        present[name].entry.name for name in beside if not family.leaves_unused(name, config.loops.num_loops)
    )
    if unexpected:
        raise CheckpointError(
            f"The weights hold {_listed(unexpected)}, which this config has no use for; "
            "ignoring weights would give wrong output."
        )


def _check_tensor(tensor: StoredTensor, spec: TensorSpec) -> None:
    if tensor.entry.shape != spec.shape:
        raise CheckpointError(
            f"Tensor {tensor.entry.name} has shape {shown(list(tensor.entry.shape))}, "
            f"the config needs {list(spec.shape)}."
        )


def _check_tied_head(checkpoint: Checkpoint, head: StoredTensor) -> None:
    embedding = next(tensor for tensor in checkpoint.tensors if tensor.name == EMBEDDING)
    values = []
    for tensor in (head, embedding):
        with _reopened(checkpoint.model_dir, tensor.file) as opened:
            values.append(_read(opened, tensor))
    if not torch.equal(*values):
        raise CheckpointError(
            f"{HEAD} differs from {EMBEDDING}, but tie_word_embeddings is true; one of the two is wrong."
        )


def _reopened(model_dir: Path, file: WeightFile) -> BinaryIO:
    """The file whose header was checked; the caller closes it."""
    opened = open_file(model_dir, file.name, CheckpointError)
    if _identity(opened) != file.identity:
        opened.close()
        raise CheckpointError(f"{file.name} changed while it was being loaded.")
    return opened


def _staging(checkpoint: Checkpoint, dtype: torch.dtype) -> torch.Tensor:
    """Room for the largest tensor that is converted; fresh memory for each would cost as much as the reading."""
    sizes = (tensor.entry.num_bytes for tensor in checkpoint.tensors if DTYPES[tensor.entry.dtype] != dtype)
    return torch.empty(max(sizes, default=0), dtype=torch.uint8)


def _read(opened: BinaryIO, tensor: StoredTensor, memory: torch.Tensor | None = None) -> torch.Tensor:
    try:
        return read_tensor(opened, tensor.entry, memory)
    except EOFError:
        raise CheckpointError(f"{tensor.file.name} changed while it was being loaded.") from None
    except OSError as error:
        raise CheckpointError(
            f"Can't read {tensor.entry.name} from {tensor.file.name}: {error.strerror}."
        ) from None


def _listed(names: list[str]) -> str:
    """The first few names and how many more there are."""
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(shown(name) for name in names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

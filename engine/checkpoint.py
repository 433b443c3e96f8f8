"""A checkpoint's safetensors files: every tensor accounted for before one is loaded, then one at a time.

Only safetensors are read, never pickles. `open_checkpoint` reads headers alone; `load_tensors` goes through the
library's memory mapping, so loading needs one tensor's memory above the result.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.config import ModelConfig, read_json_object
from engine.config_fields import shown
from engine.errors import CheckpointError, ConfigError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
MAX_INDEX_BYTES = 16 << 20
MAX_SHARDS = 4096
_NAMES_SHOWN = 3

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_GATE_PARTS = ("weight", "bias", "gate_norm.weight")
_LOOP_GATE = re.compile(r"(model\.layers\.\d+\.self_attn\.)loop_gate_proj\.(.+)")
_GATE_PROJECTIONS = re.compile(r"(?:model\.)?gate_projections\.(\d+)\.(weight|bias)")


@dataclass(frozen=True)
class TensorSpec:
    """What the model needs under one name."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in one file.

    Attributes:
        name: the released layout's name.
        stored_name: the name in the file, which may be an alias.
        dtype: safetensors' spelling, a key of `DTYPE_BYTES`.
        num_bytes: size on disk.
    """

    name: str
    stored_name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


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
        return sum(tensor.num_bytes for tensor in self.tensors)


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Names and shapes of the released layout; gates only when there is a loop that uses them."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    projections = {
        "self_attn.q_proj": (q_width, hidden, config.attention_bias),
        "self_attn.k_proj": (kv_width, hidden, config.attention_bias),
        "self_attn.v_proj": (kv_width, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, q_width, config.attention_bias),
        "mlp.gate_proj": (ffn, hidden, config.mlp_bias),
        "mlp.up_proj": (ffn, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, ffn, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, hidden)
    for index in range(config.num_layers):
        layer = f"model.layers.{index}."
        shapes[layer + "input_layernorm.weight"] = (hidden,)
        shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
        for name, (rows, columns, bias) in projections.items():
            shapes[f"{layer}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{layer}{name}.bias"] = (rows,)
        if config.loops.num_loops > 1:
            gate_inputs = hidden if config.loops.gate_on_hidden else config.head_dim
            shapes[layer + "self_attn.plt_gate.weight"] = (config.num_heads, gate_inputs)
            shapes[layer + "self_attn.plt_gate.bias"] = (config.num_heads,)
            if config.loops.gate_on_hidden:
                shapes[layer + "self_attn.plt_gate.gate_norm.weight"] = (hidden,)
    return {name: TensorSpec(shape) for name, shape in shapes.items()}


def open_checkpoint(model_dir: Path, config: ModelConfig) -> Checkpoint:
    """Find and check every tensor by reading headers only.

    Known aliases of the gates are accepted (`self_attn.loop_gate_proj.*`, `gate_projections.N.*`). Two kinds of
    tensor may be there without being needed: gates when the model is cut to one loop, and `lm_head.weight` when
    the embeddings are tied (`load_tensors` checks that it equals the embedding).

    Raises:
        CheckpointError: no safetensors, a malformed file, a file outside the model's directory, or a tensor that
            is missing, unexpected, duplicated, misshapen, of another dtype, or not where the index says.
    """
    files, index = _weight_files(model_dir)
    stored = [tensor for file in files for tensor in _read_header(file)]
    by_name: dict[str, StoredTensor] = {}
    for tensor in stored:
        other = by_name.setdefault(tensor.name, tensor)
        if other is not tensor:
            raise CheckpointError(
                f"Tensor {shown(tensor.name)} is there twice: as {shown(other.stored_name)} in {other.file.name} "
                f"and as {shown(tensor.stored_name)} in {tensor.file.name}."
            )
    if index is not None:
        _check_index(index, stored)
    expected = expected_tensors(config)
    _check_names(expected, by_name, _tolerated(config))
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
    for tensor in checkpoint.tensors:
        # Copied even where the dtype fits: a view of the mapping would crash us if the file were cut short later.
        values = _read(tensor).to(dtype, copy=True).contiguous()
        if not all(torch.isfinite(bound) for bound in values.aminmax()):
            raise CheckpointError(f"Tensor {tensor.name} has a value that is not finite in {dtype}.")
        yield tensor.name, values
        done += tensor.num_bytes
        if progress is not None:
            progress(done, total)


def canonical_name(stored_name: str) -> str:
    """The released layout's name for a name found in a file."""
    if match := _LOOP_GATE.fullmatch(stored_name):
        return f"{match[1]}plt_gate.{match[2]}"
    if match := _GATE_PROJECTIONS.fullmatch(stored_name):
        return f"model.layers.{match[1]}.self_attn.plt_gate.{match[2]}"
    return stored_name


def _weight_files(model_dir: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The files to read, and the index's tensor-to-file map where there is one."""
    single, index = (model_dir / SINGLE_FILE).exists(), (model_dir / INDEX_FILE).exists()
    if single and index:
        raise CheckpointError(
            f"{model_dir} holds both {SINGLE_FILE} and {INDEX_FILE}; keep the one that is meant."
        )
    if single:
        return [_inside(model_dir, SINGLE_FILE)], None
    if index:
        weight_map = _read_index(_inside(model_dir, INDEX_FILE))
        return [_inside(model_dir, name) for name in sorted(set(weight_map.values()))], weight_map
    pickles = sorted(path.name for path in model_dir.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{model_dir} holds only pickled weights ({pickles[0]}), which can run code and are never read; "
            "convert them to safetensors."
        )
    raise CheckpointError(f"{model_dir} holds neither {SINGLE_FILE} nor {INDEX_FILE}.")


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = read_json_object(path, MAX_INDEX_BYTES).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path.name}: weight_map must be a non-empty object, got {shown(weight_map)}.")
    for file in weight_map.values():
        plain = isinstance(file, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", file, re.ASCII)
        if not plain:
            raise CheckpointError(f"{path.name}: {shown(file)} is not a plain name of a .safetensors file.")
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise CheckpointError(f"{path.name} names more than {MAX_SHARDS} files.")
    return weight_map


def _inside(model_dir: Path, name: str) -> Path:
    """The file's path, if it exists and no symlink leads out of the model's own directories.

    A snapshot in the hub's cache consists of links into the `blobs` directory two levels up; those are its own.
    """
    path, root = model_dir / name, model_dir.resolve()
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        raise CheckpointError(f"Weight file {name} is missing from {model_dir}.") from None
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    if not target.is_file() or not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(f"Weight file {name} leads out of {model_dir}; put the file itself there.")
    return path


def _read_header(file: Path) -> list[StoredTensor]:
    tensors = []
    try:
        with safe_open(file, framework="pt") as opened:
            for stored_name in opened.offset_keys():
                entry = opened.get_slice(stored_name)
                shape, dtype = tuple(entry.get_shape()), entry.get_dtype()
                num_bytes = DTYPE_BYTES.get(dtype, 0)
                for size in shape:
                    num_bytes *= size
                name = canonical_name(stored_name)
                tensors.append(StoredTensor(name, stored_name, file, shape, dtype, num_bytes))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file.name} is not a readable safetensors file: {shown(str(error))}."
        ) from None
    return tensors


def _check_index(index: dict[str, str], stored: list[StoredTensor]) -> None:
    actual = {tensor.stored_name: tensor.file.name for tensor in stored}
    wrong = sorted(name for name in index.keys() | actual.keys() if index.get(name) != actual.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{INDEX_FILE} and the files disagree about {_listed(wrong)}: {shown(name)} should be in "
            f"{index.get(name, 'no file')} and is in {actual.get(name, 'none of them')}."
        )


def _tolerated(config: ModelConfig) -> set[str]:
    """Names that may be there without being needed."""
    names = {HEAD} if config.tie_word_embeddings else set()
    if config.loops.num_loops == 1:
        layers = [f"model.layers.{index}.self_attn.plt_gate." for index in range(config.num_layers)]
        names.update(layer + part for layer in layers for part in _GATE_PARTS)
    return names


def _check_names(expected: Iterable[str], present: dict[str, StoredTensor], tolerated: set[str]) -> None:
    missing = [name for name in expected if name not in present]
    if missing:
        raise CheckpointError(f"The weights lack {_listed(missing)}.")
    unexpected = sorted(present[name].stored_name for name in present.keys() - set(expected) - tolerated)
    if unexpected:
        raise CheckpointError(
            f"The weights hold {_listed(unexpected)}, which this config has no use for; "
            "ignoring weights would give wrong output."
        )


def _check_tensor(tensor: StoredTensor, spec: TensorSpec) -> None:
    if tensor.shape != spec.shape:
        raise CheckpointError(
            f"Tensor {tensor.stored_name} has shape {list(tensor.shape)}, the config needs {list(spec.shape)}."
        )
    if tensor.dtype not in DTYPE_BYTES:
        raise CheckpointError(
            f"Tensor {tensor.stored_name} has dtype {tensor.dtype}; only {', '.join(DTYPE_BYTES)} are read."
        )


def _check_tied_head(checkpoint: Checkpoint, head: StoredTensor) -> None:
    embedding = next(tensor for tensor in checkpoint.tensors if tensor.name == EMBEDDING)
    if not torch.equal(_read(head), _read(embedding)):
        raise CheckpointError(
            f"{HEAD} differs from {EMBEDDING}, but tie_word_embeddings is true; one of the two is wrong."
        )


def _read(tensor: StoredTensor) -> torch.Tensor:
    try:
        with safe_open(tensor.file, framework="pt") as opened:
            values: torch.Tensor = opened.get_tensor(tensor.stored_name)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"Can't read {tensor.stored_name} from {tensor.file.name}: {shown(str(error))}."
        ) from None
    if tuple(values.shape) != tensor.shape:
        raise CheckpointError(f"{tensor.file.name} changed while it was being loaded.")
    return values


def _listed(names: list[str]) -> str:
    """The first few names and how many more there are."""
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(shown(name) for name in names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

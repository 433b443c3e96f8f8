"""One safetensors file: its header, checked to the byte, and its tensors, read through one open file.

The library is not used for reading. It takes the last of two tensors of one name without a word, works 13 s on a header
of a million tensors, opens the path anew for every tensor, and reads through a mapping, so that a file cut short
meanwhile kills the process. The format is a length, a JSON object and bytes.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeGuard

import torch

from engine.config_fields import shown
from engine.errors import CheckpointError
from engine.model_directory import parse_json_object

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_HEADER_BYTES = 8 << 20
"""Three times what the most layers that are served need."""
MAX_TENSORS = 1 << 15
MAX_DIMENSIONS = 8
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the header has it.

    Attributes:
        dtype: a key of `DTYPES`.
        start: its first byte, counted from the start of the file.
        num_bytes: product of shape and element size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


def read_header(file: BinaryIO, where: str) -> list[TensorEntry]:
    """The tensors of a file in the order of their bytes; nothing is read beyond the header.

    Args:
        file: unbuffered, at its start.
        where: the file's name, for errors.

    Raises:
        CheckpointError: the header is malformed or too large, or its tensors don't fill the rest of the file to the
            byte, each with a place of its own.
    """
    try:
        size = os.fstat(file.fileno()).st_size
        (length,) = _LENGTH.unpack(_read_exactly(file, _LENGTH.size))
        if length > size - _LENGTH.size:
            raise _HeaderError(f"its header would have {length} bytes, the file has {size}")
        if length > MAX_HEADER_BYTES:
            raise _HeaderError(f"its header has {length} bytes, at most {MAX_HEADER_BYTES} are read")
        header = parse_json_object(
            _read_exactly(file, length),
            f"{where} is not a readable safetensors file: its header",
            CheckpointError,
        )
        first = _LENGTH.size + length
        entries = sorted(_entries(header, first), key=lambda entry: (entry.start, entry.num_bytes))
        _check_places(entries, first, size)
    except (_HeaderError, OSError) as error:
        raise CheckpointError(f"{where} is not a readable safetensors file: {error}.") from None
    return entries


def read_tensor(file: BinaryIO, entry: TensorEntry, memory: torch.Tensor | None = None) -> torch.Tensor:
    """A tensor's values.

    Args:
        memory: at least `num_bytes` of uint8, whose start the result then occupies; None for memory of its own.

    Raises:
        OSError, EOFError: the file can't be read, or is shorter than it was.
    """
    data = torch.empty(entry.num_bytes, dtype=torch.uint8) if memory is None else memory[: entry.num_bytes]
    target = memoryview(data.numpy())  # type: ignore[arg-type]
    file.seek(entry.start)
    done = 0
    while done < entry.num_bytes:
        count = file.readinto(target[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return data.view(DTYPES[entry.dtype]).view(entry.shape)


class _HeaderError(Exception):
    """Becomes a `CheckpointError` that names the file."""


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = file.read(size - len(data))
        if not part:
            raise _HeaderError("it ends within its header")
        data += part
    return data


def _entries(header: dict[str, object], first: int) -> Iterator[TensorEntry]:
    if len(header) > MAX_TENSORS:
        raise _HeaderError(f"it has {len(header)} tensors, at most {MAX_TENSORS} are read")
    for name, value in header.items():
        if name == _METADATA:
            if not isinstance(value, dict):
                raise _HeaderError(f"{_METADATA} must be an object, got {shown(value)}")
        elif not isinstance(value, dict) or value.keys() != _ENTRY_KEYS:
            raise _HeaderError(f"tensor {shown(name)} must have dtype, shape and data_offsets")
        else:
            yield _entry(name, value, first)


def _entry(name: str, value: dict[str, object], first: int) -> TensorEntry:
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _HeaderError(
            f"tensor {shown(name)} has dtype {shown(dtype)}; only {', '.join(DTYPES)} are read"
        )
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _HeaderError(f"tensor {shown(name)} has the shape {shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _HeaderError(f"tensor {shown(name)} has the data_offsets {shown(offsets)}")
    num_bytes = DTYPES[dtype].itemsize
    for dimension in shape:
        num_bytes *= dimension
    start, end = offsets
    if end - start != num_bytes:
        raise _HeaderError(
            f"tensor {shown(name)} of shape {shown(shape)} has data_offsets {shown(offsets)}, "
            f"not {shown(num_bytes)} bytes"
        )
    return TensorEntry(name, dtype, tuple(shape), first + start, num_bytes)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _check_places(entries: list[TensorEntry], first: int, size: int) -> None:
    """The tensors follow one another from the header to the end of the file."""
    end = first
    for entry in entries:
        if entry.start != end:
            problem = "overlaps the one before" if entry.start < end else "leaves a gap before it"
            raise _HeaderError(f"tensor {shown(entry.name)} {problem}")
        end += entry.num_bytes
    if end != size:
        raise _HeaderError(f"its tensors end at byte {end}, the file at byte {size}")

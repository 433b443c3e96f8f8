"""safetensors headers, good ones and every way of being bad that was thought of; values are the library's."""

import json
import os
import struct
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError
from engine.safetensors_file import MAX_HEADER_BYTES, MAX_TENSORS, read_header, read_tensor


def entry(shape: Any, start: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as caught, FileIO(path) as file:
        read_header(file, "w.safetensors")
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(caught.value).startswith("w.safetensors is not a readable safetensors file: ")


X = entry([2], 0, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends within its header"),
        (b"1234567", "ends within its header"),
        (file_of({"x": X}, b"", 2**63), "header would have 9223372036854775808 bytes"),
        (file_of({"x": X}, b"", 2**64 - 1), "header would have"),
        (file_of({"x": X}, b"", 1000), "header would have 1000 bytes, the file has"),
        (file_of([]), "must hold a JSON object"),
        (file_of(b"{"), "not valid JSON"),
        (file_of(b"\xff{}"), "not valid JSON"),
        (file_of(b"[" * 1_000_000), "nested too deeply"),
        (file_of(b'{"a":' * 1_000_000), "nested too deeply"),
        (file_of(b'{"x": NaN}'), "NaN is not allowed"),
        (file_of(b'{"x": ' + b"9" * 5000 + b"}"), "not valid JSON"),
        (file_of(b'{"x":%s,"x":%s}' % ((json.dumps(X).encode(),) * 2), bytes(8)), "'x' is there twice"),
        (
            file_of(b'{"x":{"dtype":"F32","dtype":"F16","shape":[],"data_offsets":[0,4]}}'),
            "'dtype' is there twice",
        ),
        (file_of({"__metadata__": 1}), "__metadata__ must be an object"),
        (file_of({"x": 3}), "must have dtype, shape and data_offsets"),
        (file_of({"x": {"dtype": "F32", "shape": [2]}}), "must have dtype, shape and data_offsets"),
        (file_of({"x": {**X, "more": 1}}), "must have dtype, shape and data_offsets"),
        (file_of({"x": entry([2], 0, 8, "F64")}, bytes(8)), "dtype 'F64'; only F32, F16, BF16"),
        (file_of({"x": entry([2], 0, 8, ["F32"])}, bytes(8)), "dtype"),
        (file_of({"x": entry([-2], 0, -8)}), r"shape \[-2\]"),
        (file_of({"x": entry([2.0], 0, 8)}, bytes(8)), "shape"),
        (file_of({"x": entry([True], 0, 4)}, bytes(4)), "shape"),
        (file_of({"x": entry(["2"], 0, 8)}, bytes(8)), "shape"),
        (file_of({"x": entry([1] * 9, 0, 4)}, bytes(4)), "shape"),
        (file_of({"x": entry([2**64], 0, 8)}, bytes(8)), "shape"),
        (
            file_of({"x": entry([2**62] * 8, 0, 8)}, bytes(8)),
            "not .* bytes",
        ),  # the product overflows to 0 in 64 bits
        (file_of({"x": entry([2], 0, 12)}, bytes(12)), "not 8 bytes"),
        (file_of({"x": entry([2], 8, 0)}, bytes(8)), "not 8 bytes"),
        (file_of({"x": entry([2], -8, 0)}, bytes(8)), "data_offsets"),
        (file_of({"x": {**X, "data_offsets": [0, 8, 8]}}, bytes(8)), "data_offsets"),
        (file_of({"x": {**X, "data_offsets": "08"}}, bytes(8)), "data_offsets"),
        (file_of({"x": X, "y": X}, bytes(8)), "overlaps"),
        (file_of({"x": X, "y": entry([2], 4, 12)}, bytes(12)), "overlaps"),
        (file_of({"x": X, "y": entry([2], 12, 20)}, bytes(20)), "gap"),
        (file_of({"x": entry([2], 4, 12)}, bytes(12)), "gap"),
        (file_of({"x": X}, bytes(7)), "end at byte"),
        (file_of({"x": X}, bytes(9)), "end at byte"),
        (file_of({"x": entry([10**12, 10**6], 0, 4 * 10**18)}, bytes(8)), "end at byte"),
        (file_of({"x\n" * 5000: 3}), "must have dtype"),
    ],
)
def test_a_malformed_header_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    refused(tmp_path / "w", content, message)


def test_headers_beyond_what_any_model_needs_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_000))
        file.truncate(100_000_008)  # sparse
    refused(path, path.read_bytes()[:8] + bytes(1), "header would have")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)
    refused(path, path.read_bytes(), "at most")
    many = {f"{index}": entry([0], 0, 0) for index in range(MAX_TENSORS + 1)}
    refused(path, file_of(many), "32769 tensors, at most 32768")


def test_zero_sized_tensors_and_metadata_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(file_of({"__metadata__": {"format": "pt"}, "e": entry([0, 5], 0, 0), "x": X}, bytes(8)))
    with FileIO(path) as file:
        assert [(found.name, found.shape) for found in read_header(file, "w")] == [("e", (0, 5)), ("x", (2,))]


@given(
    st.binary(max_size=300) | st.text(max_size=100).map(lambda text: file_of(text.encode("utf-8", "replace")))
)
def test_any_bytes_are_refused_by_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with FileIO(path) as file, suppress(CheckpointError):
        read_header(file, "w")


def test_values_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(7).bfloat16(),  # of 14 bytes: what follows is not aligned
        "scalar": torch.tensor(2.5),
        "full": torch.randn(2, 3, 4),
    }
    path = tmp_path / "w"
    save_file(tensors, path)
    expected, scratch = load_file(path), torch.empty(1000, dtype=torch.uint8)
    with FileIO(path) as file:
        entries = read_header(file, "w")
        assert {found.name for found in entries} == tensors.keys()
        for found in entries:
            for memory in (None, scratch):
                values = read_tensor(file, found, memory)
                assert values.dtype == expected[found.name].dtype
                assert torch.equal(values, expected[found.name])


def test_a_file_cut_short_while_it_is_read_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_file({"x": torch.randn(1000)}, path)
    with FileIO(path) as file:
        (found,) = read_header(file, "w")
        os.truncate(path, 2000)
        with pytest.raises(EOFError):
            read_tensor(file, found)

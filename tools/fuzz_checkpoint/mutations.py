"""Damage to one file of a model directory: to its bytes, to its JSON, to a safetensors header."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

MAX_EDITS = 4
_LENGTH = struct.Struct("<Q")
_SCRAPS = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"18446744073709551616", b"9" * 5000, b"null", b"true"),
    *(b"{}", b"[]", b"[" * 3000, b'{"a":' * 3000, b'"', b"\\", b'"\\ud800"', b"\xff", b"\0", b"../", b"\n"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**32, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, 1e-320),
    *(
        "",
        "x",
        "\ud800",
        "../../x",
        "/etc/passwd",
        "\0",
        "x" * 3000,
        "F32",
        "F64",
        "BF16",
        "<s>",
        "(a+)+b",
        "{{",
    ),
    *([], {}, [[]], [0, 0], [0, 2**63], [2**40, 2**40], [1] * 100, {"": None}, {"type": "Sequence"}),
)


def mutate(name: str, data: bytes, draw: random.Random) -> bytes:
    """A file's bytes with one to `MAX_EDITS` pieces of damage, for which `draw` decides everything.

    Args:
        name: of the file; that of a safetensors file has its header damaged most of the time.
    """
    for _ in range(draw.randint(1, MAX_EDITS)):
        if name.endswith(".safetensors"):
            data = draw.choices((_header, _length, _bytes), weights=(6, 1, 3))[0](data, draw)
        else:
            data = draw.choices((_json, _bytes), weights=(6, 4))[0](data, draw)
    return data


def _json(data: bytes, draw: random.Random) -> bytes:
    try:
        value = json.loads(data)
        return json.dumps(_edited(value, draw)).encode()
    except (ValueError, RecursionError):  # damaged before
        return _bytes(data, draw)


def _header(data: bytes, draw: random.Random) -> bytes:
    """The header's JSON edited, and its length set right, so that more than the length is read."""
    length = _LENGTH.unpack(data[:8])[0] if len(data) >= 8 else 0
    damage = draw.choices((_json, _bytes), weights=(3, 1))[0]
    header = damage(data[8 : 8 + length], draw)
    return _LENGTH.pack(len(header)) + header + data[8 + length :]


def _length(data: bytes, draw: random.Random) -> bytes:
    values = (0, 1, len(data) - 8, len(data), 2**31, 2**63, 2**64 - 1, draw.randrange(2 * len(data) + 1))
    return _LENGTH.pack(max(0, draw.choice(values))) + data[8:]


def _bytes(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    stop = min(len(data), start + draw.choice((1, 1, 4, 64, 4096)))
    edits: tuple[Callable[[], bytes], ...] = (
        lambda: data[:start] + draw.randbytes(stop - start) + data[stop:],
        lambda: data[:start] + draw.choice(_SCRAPS) + data[start:],
        lambda: data[:start] + draw.choice(_SCRAPS) + data[stop:],
        lambda: data[:start] + data[stop:],
        lambda: data[:stop] + data[start:stop] + data[stop:],
        lambda: data[:start],
        lambda: data + draw.randbytes(draw.randint(1, 64)),
    )
    return draw.choice(edits)()


def _edited(value: Any, draw: random.Random) -> Any:
    """A value with one place in it replaced, removed, copied, moved or renamed."""
    places = list(_places(value))
    if not places:
        return draw.choice(_VALUES)
    container, key = draw.choice(places)
    _, other = draw.choice([place for place in places if place[0] is container])
    match draw.randrange(5):
        case 0 | 1:
            container[key] = draw.choice(_VALUES)
        case 2:
            del container[key]
        case 3:
            container[key], container[other] = container[other], container[key]
        case _ if isinstance(container, dict):
            container[draw.choice(("", "x", "plt_x", "__metadata__", key + key))] = container[key]
        case _:
            container.append(container[key])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within a value; containers of thousands count as much as small ones."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        container = todo.pop()
        if isinstance(container, dict | list) and container:
            keys = list(container) if isinstance(container, dict) else range(len(container))
            found += [(container, key) for key in list(keys)[:: max(1, len(keys) // 32)]]
            todo += [container[key] for key in keys]
    return found

"""Files of a model directory, which is untrusted: plain files inside it, bounded in size, opened once. Torch-free.

What a link leads to could otherwise be shown to clients (a chat template) or hang the start (a FIFO). Only where the
hub keeps its cache do links lead to another place: a snapshot consists of links into the `blobs` directory beside it.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

from engine.config_fields import shown
from engine.errors import ModelError


def has_file(model_dir: Path, name: str) -> bool:
    """Whether the directory lists the name. A link that leads nowhere counts: it is an error, not a missing file."""
    return os.path.lexists(model_dir / name)


def open_file(model_dir: Path, name: str, error: type[ModelError]) -> BinaryIO:
    """A file of the directory, unbuffered, for reading.

    Checked on what was opened, not on what the path meant before: a FIFO doesn't make us wait, a device isn't read.

    Raises:
        ModelError: of the class `error`: missing, unreadable, no plain file, or a link out of the directory.
    """
    try:
        target = (model_dir / name).resolve(strict=True)
    except FileNotFoundError:
        raise error(f"Can't read {model_dir / name}: the file is missing.") from None
    except (OSError, RuntimeError) as problem:  # RuntimeError: a loop of links
        reason = problem.strerror if isinstance(problem, OSError) else "its links go round in a circle"
        raise error(f"Can't read {model_dir / name}: {reason}.") from None
    if not any(target.is_relative_to(root) for root in _roots(model_dir)):
        raise error(f"{name} leads out of {model_dir}; put the file itself there.")
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno == errno.ENXIO:  # a socket
            raise error(f"{model_dir / name} is not a plain file.") from None
        raise error(f"Can't read {model_dir / name}: {problem.strerror}.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{model_dir / name} is not a plain file.")
    return os.fdopen(descriptor, "rb", buffering=0)


def read_file(model_dir: Path, name: str, max_bytes: int, error: type[ModelError]) -> bytes:
    """All of a file of at most `max_bytes`.

    Raises:
        ModelError: of the class `error`: too large, or as `open_file`.
    """
    with open_file(model_dir, name, error) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise error(f"{model_dir / name} is larger than the {max_bytes} bytes allowed.")
        try:
            data = bytearray()
            while len(data) <= max_bytes and (part := file.read(max_bytes + 1 - len(data))):
                data += part
        except OSError as problem:
            raise error(f"Can't read {model_dir / name}: {problem.strerror}.") from None
    if len(data) > max_bytes:  # it grew
        raise error(f"{model_dir / name} is larger than the {max_bytes} bytes allowed.")
    return bytes(data)


def read_text(model_dir: Path, name: str, max_bytes: int, error: type[ModelError]) -> str:
    """All of a UTF-8 file of at most `max_bytes`; raises as `read_file`."""
    try:
        return read_file(model_dir, name, max_bytes, error).decode()
    except UnicodeDecodeError as problem:
        raise error(f"Can't read {model_dir / name}: {problem}.") from None


def read_json_object(
    model_dir: Path, name: str, max_bytes: int, error: type[ModelError]
) -> dict[str, object]:
    """A file's one JSON object; see `parse_json_object`. Raises as `read_file`."""
    return parse_json_object(read_file(model_dir, name, max_bytes, error), str(model_dir / name), error)


def parse_json_object(data: bytes, where: str, error: type[ModelError]) -> dict[str, object]:
    """One JSON object. NaN, Infinity and a key given twice are refused: readers disagree about what they mean.

    Args:
        where: begins the error's line.

    Raises:
        ModelError: of the class `error`: not JSON, nested too deeply, or not an object.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except RecursionError:
        raise error(f"{where} is nested too deeply.") from None
    except ValueError as problem:  # JSONDecodeError, UnicodeDecodeError, an integer of too many digits
        raise error(f"{where} is not valid JSON: {shown(str(problem))}.") from None
    if not isinstance(value, dict):
        raise error(f"{where} must hold a JSON object, got {shown(value)}.")
    return value


def _roots(model_dir: Path) -> list[Path]:
    root = model_dir.resolve()
    in_hub_cache = root.parent.name == "snapshots"
    return [root, root.parent.parent / "blobs"] if in_hub_cache else [root]


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not allowed")


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.100} is there twice")
    return values

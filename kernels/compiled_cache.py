"""Where numba keeps compiled kernels on disk.

numba compiles a function again when its own file changed. Ours are compiled into one another across files, so the cache
is one directory per state of all sources: nobody runs yesterday's inner loop in today's attention.

numba reads what it finds there with pickle, so the directory must be nobody else's: there is none in a shared /tmp.
"""

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numba

PACKAGE = Path(__file__).parent
USER_CACHE = "~/.cache/loopserve"
ROOM_BYTES = 16 << 20
"""For everything compiled once: 11 MB."""

_temporary: tempfile.TemporaryDirectory[str] | None = None


def cache_directories(package: Path, chosen: str | None) -> Iterator[Path]:
    """Places for the sources as they are, best first.

    Args:
        package: where the sources are.
        chosen: where the user wants it. None is beside the sources, or else in the user's cache.
    """
    digest = hashlib.sha256()
    for source in sorted(package.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    parents = [Path(chosen)] if chosen else [package / "__pycache__", Path(os.path.expanduser(USER_CACHE))]
    for parent in parents:
        yield parent / f"compiled-{digest.hexdigest()[:16]}"


def use_cache_directory() -> None:
    """Tell numba. It doesn't start without a directory, so if none can be used, one lasts as long as this process."""
    tried = list(cache_directories(PACKAGE, os.environ.get("NUMBA_CACHE_DIR")))
    directory = next((place for place in tried if has_room(place)), None)
    if directory is None:
        global _temporary
        _temporary = tempfile.TemporaryDirectory(prefix="loopserve-compiled-")  # made with mode 0700
        directory = Path(_temporary.name)
        warnings.warn(
            f"kernels are compiled at every start, as {tried[0].parent} can't be written or is full; "
            "set NUMBA_CACHE_DIR to a directory of your own",
            stacklevel=2,
        )
    numba.config.CACHE_DIR = str(directory)  # type: ignore[attr-defined]


def has_room(directory: Path) -> bool:
    """Whether the directory can be made and written, with room for all kernels unless some are there already."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
        return any(directory.iterdir()) or shutil.disk_usage(directory).free >= ROOM_BYTES
    except OSError:
        return False

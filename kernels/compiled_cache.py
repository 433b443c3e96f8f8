"""Where numba keeps compiled kernels on disk.

numba compiles a function again when its own file changed. Ours are compiled into one another across files, so the cache
is one directory per state of all sources: nobody runs yesterday's inner loop in today's attention.
"""

import hashlib
import os
from pathlib import Path

import numba

PACKAGE = Path(__file__).parent
USER_CACHE = Path("~/.cache/loopserve")


def cache_directory(package: Path, chosen: str | None) -> Path:
    """For the sources as they are.

    Args:
        package: where the sources are.
        chosen: where the user wants it. None is beside the sources, or the user's cache where that can't be written.
    """
    digest = hashlib.sha256()
    for source in sorted(package.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    beside = package / "__pycache__" if os.access(package, os.W_OK) else USER_CACHE.expanduser()
    return Path(chosen or beside) / f"compiled-{digest.hexdigest()[:16]}"


def use_cache_directory() -> None:
    """Tell numba. Where the directory can't be written, numba finds a place itself."""
    directory = cache_directory(PACKAGE, os.environ.get("NUMBA_CACHE_DIR"))
    numba.config.CACHE_DIR = str(directory)  # type: ignore[attr-defined]

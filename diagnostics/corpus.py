"""Documents from files: what they are, which of them are read, and bounds on everything.

A text file is one document. A `.jsonl` file has one per line, in the `text` field of an object. A directory stands for
the files under it, sorted by path; hidden names, symbolic links and Python's caches are left out. If there are more
documents than wanted, a uniform sample of them is read (reservoir sampling, Vitter 1985, seeded), in their order.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from pathlib import Path

from diagnostics.errors import DiagnosticsError

MAX_LISTED = 1_000_000
"""Documents that are looked at to choose from."""
MAX_DOCUMENT_BYTES = 4 << 20
"""Of a text file this much is read; a longer line of JSON is left out."""
LINES_SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document is.

    Attributes:
        name: for reports, which say nothing of where on this machine the files are.
        offset: byte at which its line of a `.jsonl` file begins; None if it is the whole file.
    """

    path: Path
    name: str
    offset: int | None = None


@dataclass(slots=True)
class Corpus:
    """What was found; `skipped` is filled while documents are read.

    Attributes:
        places: of the documents chosen.
        found: documents looked at to choose them.
        is_complete: whether all were looked at.
        skipped: documents that were chosen and not used, by reason.
    """

    places: list[Place]
    found: int
    is_complete: bool
    skipped: Counter[str] = field(default_factory=Counter)

    def texts(self) -> Iterator[tuple[Place, str | None]]:
        """Each chosen document, one at a time; None for one that was skipped.

        Raises:
            DiagnosticsError: a file can't be read any more.
        """
        for place in self.places:
            text = _read(place)
            if isinstance(text, str):
                yield place, text
            else:
                self.skipped[text.reason] += 1
                yield place, None


@dataclass(frozen=True, slots=True)
class Skipped:
    reason: str


def choose(paths: list[Path], most: int, seed: int) -> Corpus:
    """Look at files and choose at most so many documents.

    Raises:
        DiagnosticsError: a path is missing or can't be read, or there is no document.
    """
    generator = random.Random(seed)
    kept: list[tuple[int, Place]] = []
    found, is_complete = 0, True
    for place in _places(paths):
        if found == MAX_LISTED:
            is_complete = False
            break
        if len(kept) < most:
            kept.append((found, place))
        elif (index := generator.randrange(found + 1)) < most:
            kept[index] = found, place
        found += 1
    if not kept:
        raise DiagnosticsError(
            "--data names no document: give text files, .jsonl files or directories of them"
        )
    return Corpus([place for _, place in sorted(kept, key=itemgetter(0))], found, is_complete)


def _places(paths: list[Path]) -> Iterator[Place]:
    for path in paths:
        if not path.exists():
            raise DiagnosticsError(f"--data {path}: there is no such file or directory")
        for file in _files(path):
            name = str(Path(path.name, file.relative_to(path))) if path.is_dir() else file.name
            if file.suffix == LINES_SUFFIX:
                yield from (Place(file, f"{name}, line {number}", offset) for number, offset in _lines(file))
            else:
                yield Place(file, name)


def _files(path: Path) -> Iterator[Path]:
    """A file itself, or the plain files under a directory."""
    if not path.is_dir():
        if not path.is_file():
            raise DiagnosticsError(f"--data {path}: it is neither a file nor a directory")
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file() and not file.is_symlink():
                yield file


def _lines(file: Path) -> Iterator[tuple[int, int]]:
    """Number, from 1, and offset of each line of a file that is not blank, however long."""
    try:
        with file.open("rb") as lines:
            for number in count(1):
                offset = lines.tell()
                piece = lines.readline(MAX_DOCUMENT_BYTES)
                if not piece:
                    return
                is_blank = not piece.strip()
                while piece and not piece.endswith(b"\n"):
                    piece = lines.readline(MAX_DOCUMENT_BYTES)
                    is_blank = is_blank and not piece.strip()
                if not is_blank:
                    yield number, offset
    except OSError as error:
        raise _unreadable(file, error) from None


def _read(place: Place) -> str | Skipped:
    try:
        with place.path.open("rb") as file:
            if place.offset is not None:
                file.seek(place.offset)
                return _text_of_line(file.readline(MAX_DOCUMENT_BYTES + 1))
            content = file.read(MAX_DOCUMENT_BYTES)
            is_whole = not file.read(1)
    except OSError as error:
        raise _unreadable(place.path, error) from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        # Where the file was cut, a character may be, too.
        if not is_whole and error.start >= len(content) - 4 and error.reason == "unexpected end of data":
            return content[: error.start].decode()
        return Skipped("not UTF-8")


def _text_of_line(line: bytes) -> str | Skipped:
    if len(line) > MAX_DOCUMENT_BYTES:
        return Skipped("line too long")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Skipped("not JSON")
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        return Skipped('no "text"')
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair
        return Skipped("not Unicode")
    return text


def _unreadable(path: Path, error: OSError) -> DiagnosticsError:
    return DiagnosticsError(f"--data {path} can't be read: {error.strerror}")

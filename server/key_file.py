"""API keys as text: what a key may look like, and the file that they stand in."""

from pathlib import Path

from server.errors import SettingsError
from server.text_file import read_text

OPTION = "--api-key-file"
COMMENT = "#"


def is_sendable(key: str) -> bool:
    """Whether a client could send the key in a header: whitespace would be cut off or end it, controls are refused."""
    return key.isprintable() and not any(character.isspace() for character in key)


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line. Blank lines and lines that begin with # are left out.

    Raises:
        SettingsError: it can't be read, holds no key, or a line is none. Says which line, never what stands there.
    """
    keys: list[str] = []
    for number, line in enumerate(read_text(OPTION, path).split("\n"), 1):
        key = line.strip()
        if not key or key.startswith(COMMENT):
            continue
        if not is_sendable(key):
            raise SettingsError(
                f"{OPTION}: line {number} of {path} has whitespace or an unprintable character in its key"
            )
        keys.append(key)
    if not keys:
        raise SettingsError(f"{OPTION}: {path} holds no key")
    return tuple(keys)

"""Small text files that settings name."""

from pathlib import Path

from server.errors import SettingsError

MAX_TEXT_FILE_BYTES = 1 << 20


def read_text(option: str, path: Path) -> str:
    """The file's text.

    Args:
        option: named in the error.

    Raises:
        SettingsError: it can't be read, is too large or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_FILE_BYTES + 1)
        if len(data) > MAX_TEXT_FILE_BYTES:
            raise SettingsError(f"{option}: {path} is larger than {MAX_TEXT_FILE_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise SettingsError(f"{option}: can't read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{option}: {path} is not UTF-8 text") from None

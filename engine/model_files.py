"""From what the user typed to a local checkpoint directory. Torch-free."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from engine.config_fields import shown
from engine.errors import ModelError

# Weights, settings, tokenizer, template: never Python, never pickles.
HUB_FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)  # no look-alike letters


def resolve_model(name_or_path: str, revision: str | None = None, files: Sequence[str] = HUB_FILES) -> Path:
    """The directory to serve from: a local one, else a hub id (`owner/name`), downloaded or already cached.

    Args:
        revision: commit, tag or branch on the hub, from which all files are taken. None is the main one.
        files: patterns of those that are wanted from the hub.

    Raises:
        ModelError: neither a directory nor a hub id, or the hub couldn't give it; says what to do.
    """
    try:
        path = Path(os.path.expanduser(name_or_path))
        is_directory, is_file = bool(name_or_path) and path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # too long, a NUL, no permission
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"Can't look for model {shown(name_or_path)}: {reason}.") from None
    if is_directory:
        if revision is not None:
            raise ModelError(
                f"--revision is for models of the hub; {shown(name_or_path)} is a local directory."
            )
        return path.resolve()
    if is_file:
        raise ModelError(
            f"{shown(name_or_path)} is a file; give the directory that holds config.json and the weights."
        )
    if not _HUB_ID.fullmatch(name_or_path):
        raise ModelError(
            f"{shown(name_or_path)} is neither an existing directory nor a hub id of the form owner/name; "
            "check the path."
        )
    return _from_hub(name_or_path, revision, files)


def _from_hub(repo_id: str, revision: str | None, files: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(files)))
    except RevisionNotFoundError:
        reason = f"it has no revision {shown(revision)}"
    except RepositoryNotFoundError:
        reason = "the hub has no such public model (for a private one, log in with `hf auth login`)"
    except LocalEntryNotFoundError:
        reason = "it is not in the local cache and the hub can't be reached"
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = f"the download failed ({type(error).__name__}: {_first_line(error)})"
    raise ModelError(
        f"Can't get model {repo_id}: {reason}. There is no local directory of that name either; "
        "download the model and give its directory."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]

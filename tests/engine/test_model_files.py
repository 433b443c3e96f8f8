"""Where a model is looked for, without a network."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from engine import model_files
from engine.errors import ModelError
from engine.model_files import HUB_FILES, resolve_model


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("can't connect\nsecond line")

    monkeypatch.setattr(model_files, "snapshot_download", fail)


def test_a_directory_is_itself(tmp_path: Path, no_hub: None) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path.resolve()


def test_a_hub_id_is_downloaded_without_code_or_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(model_files, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("owner/some.model-v2") == tmp_path
    assert resolve_model("owner/name", "v1.0") == tmp_path  # one call: all files are of one commit
    assert asked == [("owner/some.model-v2", None, HUB_FILES), ("owner/name", "v1.0", HUB_FILES)]
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in HUB_FILES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/name", "Can't get model owner/name: it is not in the local cache"),
        ("no/such/directory", "neither an existing directory nor a hub id"),
        ("../name", "neither an existing directory nor a hub id"),
        ("", "neither an existing directory nor a hub id"),
        ("owner/na me", "neither an existing directory nor a hub id"),
        ("owner/../../etc", "neither an existing directory nor a hub id"),
        ("owner/..", "neither an existing directory nor a hub id"),
        ("оwner/name", "neither an existing directory nor a hub id"),  # a Cyrillic letter
        ("owner/name\n", "neither an existing directory nor a hub id"),
        ("https://hub/owner/name", "neither an existing directory nor a hub id"),
        ("~nobody-of-that-name/model", "neither an existing directory nor a hub id"),
        ("{{x}}%s%n", "neither an existing directory nor a hub id"),
        ("owner/a..b", "Can't get model owner/a..b"),
        ("a\0b", "Can't look for model|neither"),
        ("m" * 10_000, "Can't look for model"),
        ("owner/" + "m" * 10_000, "Can't look for model"),
        ("/proc/1/root/../../../" + "x/" * 3000, "Can't look for model"),
        ("file.txt", "is a file"),
    ],
)
def test_what_is_neither_is_refused(
    name: str, message: str, tmp_path: Path, no_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_revision_of_a_directory_makes_no_sense(tmp_path: Path, no_hub: None) -> None:
    with pytest.raises(ModelError, match="--revision is for models of the hub"):
        resolve_model(str(tmp_path), "main")


@pytest.mark.parametrize("error", [OSError("disk full\nreally"), ValueError()])
def test_a_failed_download_says_why(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(model_files, "snapshot_download", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"the download failed .{type(error).__name__}") as caught:
        resolve_model("owner/name")
    assert "\n" not in str(caught.value)

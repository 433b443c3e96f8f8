"""Files of an untrusted directory: what links, FIFOs, devices and sizes can't do."""

import os
import socket
from pathlib import Path

import pytest

from engine.errors import ConfigError, TokenizerError
from engine.model_directory import has_file, open_file, parse_json_object, read_file, read_json_object

LIMIT = 1000


def refused(directory: Path, name: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        read_file(directory, name, LIMIT, TokenizerError)
    assert "\n" not in str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own").write_text("own")
    return tmp_path / "model"


def test_links_within_the_directory_are_followed(model: Path) -> None:
    (model / "link").symlink_to("own")
    (model / "absolute").symlink_to(model / "own")
    assert read_file(model, "link", LIMIT, ConfigError) == b"own"
    assert read_file(model, "absolute", LIMIT, ConfigError) == b"own"


def test_a_directory_reached_through_a_link_is_itself(model: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(model)
    assert read_file(tmp_path / "alias", "own", LIMIT, ConfigError) == b"own"


def test_links_out_of_the_directory_are_refused(model: Path, tmp_path: Path) -> None:
    (model / "relative").symlink_to("../secret")
    (model / "absolute").symlink_to(tmp_path / "secret")
    (model / "twice").symlink_to("relative")
    (model / "device").symlink_to("/dev/zero")
    (model / "process").symlink_to("/proc/self/environ")
    (tmp_path / "model-evil").mkdir()  # a prefix of the path's text is not the directory
    (tmp_path / "model-evil" / "file").touch()
    (model / "neighbour").symlink_to("../model-evil/file")
    for name in ("relative", "absolute", "twice", "device", "process", "neighbour", "../secret"):
        refused(model, name, "leads out")


def test_a_hub_snapshots_links_lead_to_its_blobs_and_nowhere_else(tmp_path: Path) -> None:
    repo = tmp_path / "models--owner--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "0123").write_text("blob")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("ref")
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    (snapshot / "other").symlink_to("../../refs/main")
    (tmp_path / "secret").write_text("secret")
    (snapshot / "out").symlink_to(tmp_path / "secret")
    (repo / "blobs" / "onward").symlink_to(tmp_path / "secret")
    (snapshot / "onward").symlink_to("../../blobs/onward")
    assert read_file(snapshot, "config.json", LIMIT, ConfigError) == b"blob"
    for name in ("other", "out", "onward"):
        refused(snapshot, name, "leads out")


def test_what_is_no_plain_file_is_refused_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(model / "fifo")  # an ordinary open would wait for a writer
    (model / "directory").mkdir()
    monkeypatch.chdir(model)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name in ("fifo", "directory", "socket"):
            refused(model, name, "is not a plain file")


def test_what_is_not_there(model: Path) -> None:
    (model / "dangling").symlink_to("nothing")
    (model / "circle").symlink_to("circle")
    refused(model, "nothing", "missing")
    refused(model, "dangling", "missing")
    refused(model, "circle", "circle|links")
    refused(model, "own/below", "Can't read")
    refused(model, "n" * 5000, "Can't read")
    assert has_file(model, "own")
    assert has_file(model, "dangling")
    assert not has_file(model, "nothing")


def test_sizes_are_bounded(model: Path) -> None:
    (model / "full").write_bytes(bytes(LIMIT))
    assert len(read_file(model, "full", LIMIT, ConfigError)) == LIMIT
    with (model / "huge").open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take all memory
    refused(model, "huge", "larger than the 1000 bytes allowed")


def test_files_are_closed(model: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.mkfifo(model / "fifo")
    for _ in range(10):
        refused(model, "fifo", "plain")
        read_file(model, "own", LIMIT, ConfigError)
    assert len(os.listdir("/proc/self/fd")) == before
    with open_file(model, "own", ConfigError) as file:
        assert not os.get_inheritable(file.fileno())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"a": [{"b": 1, "c": 2, "b": 1}]}', "the key 'b' is there twice"),
        ('{"%s": 1, "%s": 2}' % (("k" * 10_000,) * 2), "is there twice"),
        ('{"a": Infinity}', "Infinity is not allowed"),
        ('{"a": -Infinity}', "-Infinity is not allowed"),
        ('{"a": NaN}', "NaN is not allowed"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": 1} x', "not valid JSON"),
        ("3", "must hold a JSON object"),
    ],
)
def test_json_that_readers_understand_differently_is_refused(model: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_json_object(text.encode(), "x.json", ConfigError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    (model / "x.json").write_text(text)
    with pytest.raises(TokenizerError, match=message):
        read_json_object(model, "x.json", 1 << 20, TokenizerError)

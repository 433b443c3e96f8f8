"""One small checkpoint for all tests of the API process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.make_checkpoint import make_checkpoint, random_config
from tests.server.played import MAX_MODEL_LEN, VOCAB_SIZE, Played, Script, says


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose tokenizer has one token per byte."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    config = random_config(vocab_size=VOCAB_SIZE, max_position_embeddings=MAX_MODEL_LEN)
    make_checkpoint(directory, config, seed=1)
    return directory


@pytest.fixture
def played(checkpoint: Path) -> Callable[..., Played]:
    """Makes a server over an engine with the given script; by default it answers "hello"."""

    def make(script: Script | None = None, **options: Any) -> Played:
        return Played(checkpoint, script or says("hello"), **options)

    return make

"""Tokenizers and templates that hang, explode or crash are refused with one line, and nothing is left running."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.errors import TokenizerError
from server.bootstrap import build_state
from server.chat_template import ChatTemplate
from server.cli import run
from server.model_trial import try_model
from server.model_trial_worker import render_all
from server.settings import load_settings
from tests.make_checkpoint import make_checkpoint, random_config
from tests.server.test_chat_template import ENDLESS, QUADRATIC

TIMEOUT = 20.0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "model", random_config(), seed=0)
    return tmp_path / "model"


def refused(model: Path, template: str | None = None, timeout: float = TIMEOUT) -> str:
    started = time.monotonic()
    with pytest.raises(TokenizerError) as caught:
        try_model(model, template, timeout)
    assert time.monotonic() - started < timeout + 10
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not [
        child for child in psutil.Process().children() if "model_trial_worker" in " ".join(child.cmdline())
    ]
    return str(caught.value)


def change_tokenizer(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = model / "tokenizer.json"
    source = json.loads(path.read_text())
    change(source)
    path.write_text(json.dumps(source))


def test_good_models_pass(model: Path) -> None:
    try_model(model, None)
    try_model(model, "{{ messages[0].content }}")
    try_model(model, "{{ raise_exception('only for other conversations') }}")
    try_model(model, QUADRATIC)
    (model / "tokenizer_config.json").unlink()
    try_model(model, None)


def test_a_template_that_loops_for_ever_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Trying the chat template took more than 3 s" in refused(model, ENDLESS[0], timeout=3)
    monkeypatch.setattr("server.chat_template.RENDER_CPU_S", 0.2)  # as in the worker when there is more time
    with pytest.raises(TokenizerError, match=r"takes more than 0\.2 s .* This model is refused"):
        render_all(ChatTemplate(ENDLESS[0], {}))


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10000000000 }}",  # worked out when it is compiled
        "{{ messages[0].content * 10000000000 }}",
        "{% set y = 'a' %}" + "{% set y = y ~ y %}" * 40 + "{{ y }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
    ],
)
def test_a_template_that_takes_all_memory_is_refused(model: Path, source: str) -> None:
    refused(model, source)


def test_a_template_too_slow_to_compile_is_refused_by_name(model: Path) -> None:
    source = "".join(f"{{% set a{number} = 1 %}}" for number in range(40_000))
    assert "Trying the chat template took more than 3 s" in refused(model, source, timeout=3)


def _replace_bomb(source: dict[str, Any]) -> None:
    """Each step makes a hundred of every letter."""
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
    source["normalizer"] = {"type": "Sequence", "normalizers": [step] * 8}


def _split(regex: str) -> Callable[[dict[str, Any]], object]:
    def change(source: dict[str, Any]) -> None:
        split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        source["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, source["pre_tokenizer"]]}

    return change


@pytest.mark.parametrize(
    "change",
    [
        _replace_bomb,
        _split("(a+)+b"),  # beyond the library's own limit on backtracking: a panic
        _split("(?:" * 5000 + "a" + ")" * 5000),
        _split("("),
        lambda source: source["model"]["vocab"].update(zzz=2**31),
        lambda source: source["model"]["vocab"].update(zzz=-1),
        lambda source: source.update(
            normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x" * 100}
        ),
        lambda source: source.update(model={"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}),
    ],
)
def test_a_hostile_tokenizer_is_refused(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_tokenizer(model, change)
    refused(model)


def test_padding_and_truncation_of_a_tokenizer_file_are_not_obeyed(model: Path) -> None:
    """Padding to 8 billion tokens takes all memory, and a prompt cut to 5 tokens is another prompt."""

    def change(source: dict[str, Any]) -> None:
        source["truncation"] = {
            "direction": "Right",
            "max_length": 5,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        source["padding"] = {
            **{"strategy": {"Fixed": 2**33}, "direction": "Right", "pad_to_multiple_of": None},
            **{"pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
        }

    change_tokenizer(model, change)
    try_model(model, None)
    state = build_state(load_settings({"model": str(model)}))
    assert len(state.tokenizer.encode("abcdefghij")) == 10


def test_the_start_is_refused_with_exit_code_2(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_tokenizer(model, _replace_bomb)
    assert run(["serve", str(model), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("loopserve: Trying the tokenizer ended its process")
    assert error.count("\n") == 1


def test_a_tokenizer_wider_than_the_model_is_warned_of(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_state(load_settings({"model": str(model), "model_overrides": {"vocab_size": 300}}))
    assert "the tokenizer has ids up to 319, the model only up to 299" in caplog.text

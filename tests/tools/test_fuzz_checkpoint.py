"""The fuzzer: a few seeds of it, that seeds repeat, and that it sees what must not happen."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tools.fuzz_checkpoint import case, many
from tools.fuzz_checkpoint.case import FuzzError, Result, load, make_bases, run_seed
from tools.fuzz_checkpoint.many import Failure, run_seeds
from tools.fuzz_checkpoint.mutations import mutate
from tools.fuzz_checkpoint.page import page


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bases(tmp_path_factory.mktemp("bases"))


def test_whole_models_load(bases: dict[str, Path]) -> None:
    assert load(bases["model.safetensors"])[-1] == load(bases["model.safetensors.index.json"])[-1]


def test_damage_depends_on_the_seed_alone(bases: dict[str, Path]) -> None:
    for name, base in bases.items():
        data = (base / name).read_bytes()
        once = [mutate(name, data, random.Random(seed)) for seed in range(20)]
        assert once == [mutate(name, data, random.Random(seed)) for seed in range(20)]
        assert len(set(once)) > 15
        assert sum(damaged == data for damaged in once) < 5


def test_some_seeds(bases: dict[str, Path], tmp_path: Path) -> None:
    """`make fuzz-checkpoint` runs many more."""
    results = [run_seed(seed, bases, tmp_path) for seed in range(60)]
    assert {result.outcome for result in results} == {"same", "another", "refused"}
    assert {result.file for result in results} == set(bases)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ValueError("oops"), "ValueError: oops"),
        (MemoryError(), "MemoryError"),
        (case.ModelError("two\nlines that are long enough"), "a bad line"),
        (case.ModelError("x" * 5000), "a bad line"),
        (case.ModelError(""), "a bad line"),
    ],
)
def test_what_must_not_happen_is_seen(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, seen: str
) -> None:
    for base in bases.values():
        case._loaded(base)

    def fail(*args: Any) -> None:
        raise raised

    monkeypatch.setattr(case, "load_config", fail)
    with pytest.raises(FuzzError, match=seen):
        run_seed(0, bases, tmp_path)


def test_a_seed_that_takes_its_process_along_or_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_work", _dies_and_hangs)
    monkeypatch.setattr(many, "SILENCE_S", 20.0)
    found = list(run_seeds(range(4)))
    assert [getattr(each, "killed", None) for each in found] == [None, True, None, True]
    assert [each.seed for each in found] == [0, 1, 2, 3]
    assert isinstance(found[1], Failure)
    assert "ended its process with -9" in found[1].problem
    assert isinstance(found[3], Failure)
    assert "hangs" in found[3].problem


def _dies_and_hangs(answers: Any, seeds: list[int]) -> None:
    for seed in seeds:
        if seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 3:
            signal.pause()
        answers.send(Result(seed, "config.json", "same", 0.0))


def test_the_page_counts() -> None:
    results = [
        Result(0, "config.json", "refused", 0.5, "ConfigError"),
        Result(1, "config.json", "same", 0.1),
        Result(2, "tokenizer.json", "another", 0.1),
    ]
    text = page(range(4), results, [Failure(3, "it hangs", killed=True)], "a machine", "abc")
    assert "| `config.json` | 1 | 0 | 1 |" in text
    assert "| `tokenizer.json` | 0 | 1 | 0 |" in text
    assert "**1 were not**" in text
    assert "* seed 3: it hangs" in text
    assert "slowest took 0.50 s" in text

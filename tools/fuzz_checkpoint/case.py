"""One damaged model directory, and whether what happens to it is what has to happen.

A model is loaded as the server does it: settings, generation defaults, tokenizer, some text there and back, chat
template, one conversation, every header, every tensor. It must load whole, or be refused by a `ModelError` of one line.
"""

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from engine.checkpoint import expected_tensors, load_tensors, open_checkpoint
from engine.config import load_config, load_generation_defaults
from engine.errors import InvalidRequestError, ModelError
from engine.tokenizer import Tokenizer
from server.chat_template import template_of
from tests.make_checkpoint import MIN_VOCAB_SIZE, make_checkpoint, random_config
from tools.fuzz_checkpoint.mutations import mutate

MAX_SECONDS = 5.0
MAX_LINE = 1000
MAX_GROWTH = 256 << 20
TEXT = "def f(x):\n\treturn x  # Größe 🙂"
SINGLE = (
    *(
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
    ),
)
SHARDED = ("model.safetensors.index.json", "model-00002-of-00003.safetensors")

Outcome = Literal["same", "another", "refused"]


class FuzzError(Exception):
    """What must not happen."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a seed.

    Attributes:
        file: that was damaged.
        outcome: it loaded as if it were whole, it loaded as another model, or it was refused.
        cpu_seconds: taken by loading.
        error: the class of the refusal, "" if it loaded.
    """

    seed: int
    file: str
    outcome: Outcome
    cpu_seconds: float
    error: str = ""


def make_bases(directory: Path) -> dict[str, Path]:
    """Whole models: each file that can be damaged, and the directory it is in."""
    config = random_config(
        vocab_size=MIN_VOCAB_SIZE,
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
    )
    make_checkpoint(directory / "single", config, seed=0)
    make_checkpoint(directory / "sharded", config, seed=0, shards=3)
    return dict.fromkeys(SINGLE, directory / "single") | dict.fromkeys(SHARDED, directory / "sharded")


def run_seed(seed: int, bases: dict[str, Path], scratch: Path) -> Result:
    """Damage a copy and load it.

    Args:
        scratch: an empty place for the copy.

    Raises:
        FuzzError: another exception than the one that is due, a long or broken line, too much time or memory, or a
            model that has not what it must have.
    """
    draw = random.Random(seed)
    name = draw.choice(list(bases))
    base = bases[name]
    model = scratch / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(base, model)
    (model / name).write_bytes(mutate(name, (base / name).read_bytes(), draw))
    whole = _loaded(base)
    peak, started = _peak(), time.process_time()
    error = ""
    try:
        outcome: Outcome = "same" if load(model) == whole else "another"
    except ModelError as refusal:
        outcome, error, line = "refused", type(refusal).__name__, str(refusal)
        _check("\n" not in line and 10 < len(line) < MAX_LINE, f"a bad line: {line[:MAX_LINE]!r}")
    except BaseException as problem:  # a panic of Rust code is no Exception
        if isinstance(problem, KeyboardInterrupt | FuzzError):
            raise
        raise FuzzError(f"{name}: {type(problem).__name__}: {str(problem)[:MAX_LINE]}") from problem
    seconds = time.process_time() - started
    _check(seconds < MAX_SECONDS, f"{name}: {seconds:.1f} s")
    _check(_peak() - peak < MAX_GROWTH, f"{name}: {(_peak() - peak) >> 20} MiB more")
    return Result(seed, name, outcome, seconds, error)


def load(model: Path) -> tuple[object, ...]:
    """Everything of a model that can be compared.

    Raises:
        ModelError: it is refused.
        FuzzError: it was accepted without having what it must have.
    """
    config = load_config(model, {})
    defaults = load_generation_defaults(model)
    tokenizer = Tokenizer.load(model)
    ids = tokenizer.encode(TEXT)
    texts = tokenizer.decode(ids), tokenizer.chat_template, tokenizer.fim
    template = template_of(tokenizer, None)
    prompt = ""
    if template is not None:
        try:
            prompt = template.render([{"role": "user", "content": TEXT}], True)
        except InvalidRequestError:
            prompt = "refused"
    expected = {name: spec.shape for name, spec in expected_tensors(config).items()}
    tensors = dict(load_tensors(open_checkpoint(model, config), torch.float32))
    _check(
        {name: tuple(t.shape) for name, t in tensors.items()} == expected, "other tensors than the config's"
    )
    _check(
        all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()), "a value that is not finite"
    )
    bits = tuple((name, tensors[name].numpy().tobytes()) for name in sorted(tensors))
    return config, defaults, tuple(ids), texts, prompt, bits


_loaded: Callable[[Path], tuple[object, ...]] = cache(load)


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise FuzzError(problem)


def _peak() -> int:
    """Bytes. getrusage's figure would begin with that of the process we were started from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10

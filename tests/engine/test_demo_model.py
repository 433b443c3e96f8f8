"""The engine on the bundled demo model: the loss its training code measured, and the oracle's tokens."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.core import EngineCore
from engine.options import EngineOptions
from engine.tokenizer import Tokenizer
from tests import oracle
from tests.engine.harness import Driver

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


def driver(**options) -> Driver:
    return Driver(
        EngineCore.load(
            EngineOptions(model_dir=str(DEMO), kv_cache_memory=64 << 20, calibration_time=0, **options), False
        )
    )


@pytest.mark.parametrize(("loops", "recorded"), [(2, "r2"), (1, "r1_cut")])
def test_loss_on_a_held_out_snippet_is_the_recorded_one(loops, recorded):
    snippet = json.loads((DEMO / "training.json").read_text())["snippet"]
    tokens = Tokenizer.load(DEMO).encode(snippet["text"])
    answer = driver(model_overrides={"plt_num_loops": loops}).one(tokens, max_tokens=0, prompt_logprobs=0)
    logprobs = [entry.logprob for entry in answer.prompt_logprobs if entry is not None]
    assert len(logprobs) == len(tokens) - 1
    assert -sum(logprobs) / len(logprobs) == pytest.approx(snippet[recorded], abs=2e-3)


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_greedy_tokens_are_the_oracles(execution):
    config = json.loads((DEMO / "config.json").read_text())
    prompt = Tokenizer.load(DEMO).encode("def fibonacci(n):\n")
    answer = driver(execution=execution).one(prompt, max_tokens=24)
    assert answer.tokens == oracle.greedy(config, load_file(DEMO / "model.safetensors"), prompt, 24)

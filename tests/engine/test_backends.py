"""Every kernel backend drives the engine to the same tokens; the other formats to nearly the same logits."""

import pytest
import torch

from engine.config import parse_config
from engine.errors import ModelError
from engine.options import EngineOptions
from engine.placement import resolve_placement
from tests.engine.harness import Answer, Checkpoint, checkpoint
from tests.engine.test_decode_graphs import StandIn, limits_of
from tests.make_checkpoint import random_config

PROMPTS = {"a": list(range(3, 40)), "b": [5, 6, 7], "c": list(range(50, 75))}


def run(model: Checkpoint, **options: object) -> dict[str, Answer]:
    """Three requests that join one another, the third with a prefix that is cached by then."""
    driver = model.driver(**options)
    for name, prompt in PROMPTS.items():
        driver.add(name, prompt, max_tokens=8, logprobs=2)
        driver.step()
    driver.run()
    driver.add("again", [*PROMPTS["a"][:30], 9], max_tokens=6, logprobs=2, temperature=1.0)
    return driver.run()


def tokens(answers: dict[str, Answer]) -> dict[str, list[int]]:
    return {name: answer.tokens for name, answer in answers.items()}


@pytest.mark.parametrize(
    ("loops", "on_hidden", "execution"),
    [(1, True, "parallel"), (2, True, "parallel"), (3, False, "parallel"), (2, False, "sequential")],
)
def test_triton_gives_the_reference_backends_tokens(loops, on_hidden, execution):
    model = checkpoint(seed=loops, plt_num_loops=loops, plt_gate_use_hidden_states=on_hidden)
    expected = run(model, attention_backend="reference")
    actual = run(model, attention_backend="triton", execution=execution)
    assert tokens(actual) == tokens(expected)
    assert actual["again"].cached_tokens > 0
    for name, answer in actual.items():
        for mine, other in zip(answer.logprobs, expected[name].logprobs, strict=True):
            assert abs(mine.logprob - other.logprob) < 1e-4


def test_triton_decodes_long_contexts_in_parts():
    model = checkpoint(seed=6, max_position_embeddings=2048)
    prompt = [3 + index * 7 % 300 for index in range(560)]
    options = {"max_rows_per_step": 512, "max_num_seqs": 1}
    expected = model.driver(attention_backend="cpu", **options).one(prompt, max_tokens=3)
    actual = model.driver(attention_backend="triton", **options).one(prompt, max_tokens=3)
    assert actual.tokens == expected.tokens


def test_triton_decodes_in_graphs():
    model = checkpoint(seed=7)
    driver, stand_in = model.driver(attention_backend="triton"), StandIn()
    limits = limits_of(driver.core, max_model_len=64, max_tiles=2)
    driver.core.model.runner.capture_graphs(limits, stand_in)
    expected = model.driver(attention_backend="reference").one([5, 6, 7, 8], max_tokens=6)
    assert driver.one([5, 6, 7, 8], max_tokens=6).tokens == expected.tokens
    assert stand_in.replayed == 5


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize(
    ("formats", "tolerance"),
    [
        ({"dtype": "bfloat16"}, 0.15),
        ({"dtype": "float16"}, 0.02),
        ({"dtype": "float16", "kv_cache_dtype": "fp8"}, 0.3),
        ({"kv_cache_dtype": "fp8"}, 0.3),
        ({"quantization": "int8"}, 0.1),
    ],
)
def test_other_formats_stay_near_float32(backend, formats, tolerance):
    check_near_float32(backend, formats, tolerance)


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_a_bfloat16_cache_on_the_cpu_stays_near_float32(execution):
    check_near_float32("cpu", {"kv_cache_dtype": "bfloat16", "execution": execution}, 0.1)


def check_near_float32(backend, formats, tolerance):
    """Tokens are forced by their ids in the prompt, so that one flipped token doesn't change all that follow."""
    model = checkpoint(seed=8)
    prompt = PROMPTS["a"]
    options = {"attention_backend": backend, **formats}
    expected = model.driver(attention_backend="cpu").one(prompt, max_tokens=1, prompt_logprobs=0)
    actual = model.driver(**options).one(prompt, max_tokens=1, prompt_logprobs=0)
    pairs = list(zip(actual.prompt_logprobs[1:], expected.prompt_logprobs[1:], strict=True))
    differences = [abs(mine.logprob - other.logprob) for mine, other in pairs]
    assert 0 < max(differences) < tolerance
    assert model.driver(**options).one(prompt, max_tokens=4).finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dtype": "float16"}, "keeps weights in float32 or bfloat16"),
        ({"kv_cache_dtype": "fp8"}, "keeps its cache in float32 or bfloat16"),
        ({"device": "cuda"}, "torch finds no GPU"),
        ({"attention_backend": "xformers"}, "needs an NVIDIA GPU"),
        ({"quantization": "int4", "attention_backend": "reference", "dtype": "bfloat16"}, "int4 needs"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_in_one_line(options, problem):
    model = checkpoint()
    with pytest.raises(ModelError, match=problem) as refused:
        model.core(**options)
    assert "\n" not in str(refused.value)


def test_a_gpu_takes_the_checkpoints_dtype_and_triton(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = parse_config(random_config(torch_dtype="bfloat16"))
    placement = resolve_placement(EngineOptions(model_dir="x"), config)
    assert (placement.device.type, placement.dtype, placement.backend) == ("cuda", torch.bfloat16, "triton")
    assert placement.cache_dtype == torch.bfloat16
    assert placement.captures_graphs

"""Every family against the float64 oracle: decode, chunks, crowds, prefix cache, ranks, formats, backends."""

from functools import cache
from typing import Any

import pytest
import torch

from engine.config import parameter_count, parse_config
from engine.families.registry import FAMILIES
from tests.engine.harness import Checkpoint, Driver, saved
from tests.engine.test_exactness import assert_exact, prompt_of
from tests.family_configs import LOOPS_KEY, TINY, family_config

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in TINY},
    **{f"{name}, one loop": (name, {key: 1}) for name, key in LOOPS_KEY.items()},
    **{f"{name}, three loops": (name, {key: 3}) for name, key in LOOPS_KEY.items()},
    "iquestloopcoder, window of one": ("iquestloopcoder", {"loop_window_size": 1}),
    "iquestloopcoder, long window": ("iquestloopcoder", {"loop_window_size": 64, "num_key_value_heads": 4}),
    "iquestloopcoder, biases": ("iquestloopcoder", {"attention_bias": True, "mlp_bias": True}),
    "nanbeige, norm at the end only": ("nanbeige", {"skip_loop_final_norm": True}),
    "nanbeige, loss weights": ("nanbeige", {"loop_loss_weights": [0.2, 0.3]}),
    "ouro, grouped": ("ouro", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, biases, tied": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3, biases, tied": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3, one KV head": ("qwen3", {"num_key_value_heads": 1, "head_dim": 10}),
    "qwen3, wide heads": ("qwen3", {"head_dim": 32, "num_key_value_heads": 4}),
}


@cache
def model_of(variant: str) -> Checkpoint:
    name, changes = VARIANTS[variant]
    return saved(family_config(name, **changes), seed=5)


def play(driver: Driver) -> None:
    """Short and long prompts together, then some of them again from the prefix cache."""
    for number, length in enumerate((1, 37, 80)):
        driver.add(str(number), prompt_of(length, number), logprobs=5, max_tokens=6)
    driver.add("scored", prompt_of(40), logprobs=1, prompt_logprobs=3, max_tokens=3)
    driver.run()
    for number, length in enumerate((1, 37, 80)):
        driver.add(f"again {number}", prompt_of(length, number), logprobs=5, max_tokens=6)
    driver.run()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_the_engine_computes_what_the_family_is(variant, execution):
    driver = model_of(variant).driver(execution=execution, max_rows_per_step=32)
    play(driver)
    for number, length in enumerate((1, 37, 80)):
        assert_exact(model_of(variant), prompt_of(length, number), driver.answers[str(number)])
        assert driver.answers[f"again {number}"].logprobs == driver.answers[str(number)].logprobs
    assert driver.answers["again 2"].cached_tokens > 0
    assert_exact(model_of(variant), prompt_of(40), driver.answers["scored"])


@pytest.mark.parametrize("variant", ["qwen3, biases, tied", "qwen3, one KV head", "ouro", "qwen2"])
def test_alone_and_in_a_crowd_the_bits_are_the_same(variant):
    crowd = model_of(variant).driver(max_rows_per_step=32)
    play(crowd)
    for number, length in enumerate((1, 37, 80)):
        alone = (
            model_of(variant)
            .driver(max_rows_per_step=64)
            .one(prompt_of(length, number), logprobs=5, max_tokens=6)
        )
        assert alone.logprobs == crowd.answers[str(number)].logprobs


@pytest.mark.parametrize(
    "variant", ["qwen3, biases, tied", "ouro, grouped", "qwen2", "iquestloopcoder, biases"]
)
def test_two_ranks_give_the_tokens_of_one(variant):
    one, two = model_of(variant).driver(), model_of(variant).driver(tensor_parallel_size=2)
    try:
        play(one)
        play(two)
    finally:
        two.core.model.runner.followers.close()
    for name, answer in two.answers.items():
        assert answer.tokens == one.answers[name].tokens
        for ours, theirs in zip(answer.logprobs, one.answers[name].logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


@pytest.mark.parametrize("variant", ["qwen3, biases, tied", "ouro", "iquestloopcoder"])
def test_quantized_layers_keep_their_norms_and_biases(variant):
    driver = model_of(variant).driver(quantization="int8")
    play(driver)
    exact = model_of(variant).driver()
    play(exact)
    ours = torch.tensor([each.logprob for each in driver.answers["scored"].prompt_logprobs[1:] if each])
    theirs = torch.tensor([each.logprob for each in exact.answers["scored"].prompt_logprobs[1:] if each])
    assert 0 < float((ours - theirs).abs().mean()) < 0.1


@pytest.mark.parametrize("variant", ["qwen3, one KV head", "ouro, grouped"])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_other_backends_give_the_same_tokens(variant, backend):
    driver, exact = model_of(variant).driver(attention_backend=backend), model_of(variant).driver()
    for each in (driver, exact):
        each.add("a", prompt_of(30), logprobs=0, max_tokens=5)
        each.add("b", prompt_of(3, 1), logprobs=0, max_tokens=5)
        each.run()
    for name, answer in driver.answers.items():
        assert answer.tokens == exact.answers[name].tokens
        for ours, theirs in zip(answer.logprobs, exact.answers[name].logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


@pytest.mark.parametrize("variant", [*TINY, "qwen3, biases, tied"])
def test_the_self_check_holds(variant):
    assert model_of(variant).core(self_check=True).ready().batch_invariant


@pytest.mark.parametrize("variant", ["qwen3", "qwen2", "ouro", "iquestloopcoder", "nanbeige"])
def test_a_bfloat16_cache_stays_near(variant):
    driver, exact = model_of(variant).driver(kv_cache_dtype="bfloat16"), model_of(variant).driver()
    for each in (driver, exact):
        each.add("a", prompt_of(40), prompt_logprobs=0, max_tokens=1)
        each.run()
    pairs = zip(driver.answers["a"].prompt_logprobs[1:], exact.answers["a"].prompt_logprobs[1:], strict=True)
    differences = [abs(ours.logprob - theirs.logprob) for ours, theirs in pairs]
    assert 0 < sum(differences) / len(differences) < 0.05


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_is_counted(variant):
    model, unused = model_of(variant), ("early_exit_gate",)
    if model.config.get("loop_num") == 1:
        unused += ("gate_projections",)
    used = [tensor for name, tensor in model.tensors.items() if not any(part in name for part in unused)]
    assert parameter_count(parse_config(model.config)) == sum(tensor.numel() for tensor in used)


def test_every_family_is_tested():
    named = {model_type for family in FAMILIES for model_type in family.model_types}
    assert named == TINY.keys() | {"iquestpltcoder"}

"""Sizing the pool, and one set of weights under several options."""

from pathlib import Path

import pytest
import torch

from engine.config import load_config, parameter_count
from engine.core import EngineCore
from engine.errors import ModelError
from engine.loading import Variant, load_model, load_variants
from engine.options import EngineOptions
from engine.placement import resolve_placement, weight_bytes
from tests.engine.harness import Driver
from tests.make_checkpoint import make_checkpoint, random_config


def options_for(directory: Path, **changes: object) -> EngineOptions:
    return EngineOptions(model_dir=str(directory), prefix_caching=False, **changes)  # type: ignore[arg-type]


def tokens_of(core: EngineCore, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    driver = Driver(core)
    for number, prompt in enumerate(prompts):
        driver.add(str(number), prompt, max_tokens=max_tokens)
    return [answer.tokens for answer in driver.run().values()]


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_the_largest_useful_pool_runs_every_sequence_at_full_length_at_once(
    tmp_path: Path, loops: int
) -> None:
    make_checkpoint(tmp_path, random_config(plt_num_loops=loops), seed=0)
    options = options_for(tmp_path, max_num_seqs=4, max_model_len=40, max_rows_per_step=400)
    driver = Driver(EngineCore(load_model(options, show_progress=False)))
    for number in range(4):
        driver.add(str(number), [number + 9] * 30, max_tokens=10)
    driver.step()
    assert (driver.core.stats().running, driver.core.stats().waiting) == (4, 0)
    driver.run()
    assert driver.core.stats().preemptions_total == 0


def test_variants_share_weights_and_compute_what_they_would_alone(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(plt_num_loops=3), seed=0)
    variants = [
        options_for(tmp_path),
        options_for(tmp_path, execution="sequential"),
        options_for(tmp_path, model_overrides={"plt_num_loops": 2}),
        options_for(tmp_path, model_overrides={"plt_num_loops": 1}),
    ]
    models = load_variants([Variant(each) for each in variants], show_progress=False)
    assert len({id(model.runner.model.weights.layers[0].qkv) for model in models}) == 1
    prompts = [[5, 6, 7], [100, 101, 102, 103]]
    for model, options in zip(models, variants, strict=True):
        alone = EngineCore(load_model(options, show_progress=False))
        assert tokens_of(EngineCore(model), prompts, 6) == tokens_of(alone, prompts, 6)


def test_variants_must_agree_on_how_weights_are_stored(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    with pytest.raises(ModelError, match="share weights"):
        load_variants(
            [Variant(options_for(tmp_path)), Variant(options_for(tmp_path, dtype="bfloat16"))],
            show_progress=False,
        )


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_in_any_format_give_nearly_the_same_logprobs(
    tmp_path: Path, dtype: str, quantization: str
) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    prompt = list(range(20, 60))

    def logprobs(**changes: object) -> torch.Tensor:
        core = EngineCore(load_model(options_for(tmp_path, **changes), show_progress=False))
        answer = Driver(core).one(prompt, max_tokens=1, prompt_logprobs=0)
        return torch.tensor([entry.logprob for entry in answer.prompt_logprobs if entry is not None])

    change = (logprobs(dtype=dtype, quantization=quantization) - logprobs(dtype="float32")).abs().mean()
    if (dtype, quantization) == ("float32", "none"):
        assert change == 0
    else:
        assert 0 < change < {"none": 0.05, "int8": 0.1, "int4": 0.5}[quantization]


def test_a_bfloat16_checkpoint_is_kept_in_bfloat16_and_computes_as_in_float32(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0, dtype="bfloat16")
    kept = load_model(options_for(tmp_path), show_progress=False)
    widened = load_model(options_for(tmp_path, dtype="float32"), show_progress=False)
    assert kept.runner.model.weights.embedding.dtype == torch.bfloat16
    prompts = [list(range(20, 50)), [7, 8, 9]]
    assert tokens_of(EngineCore(kept), prompts, 12) == tokens_of(EngineCore(widened), prompts, 12)


def _leave(monkeypatch: pytest.MonkeyPatch, module: str, num_bytes: int) -> None:
    monkeypatch.setattr(f"engine.{module}.memory_left", lambda device, num_ranks: num_bytes)


def test_weights_that_do_not_fit_are_refused_before_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    needed = 4 * parameter_count(load_config(tmp_path, {}))

    def read(*args: object) -> None:
        raise AssertionError("a tensor was read")

    _leave(monkeypatch, "rank_loading", needed - 1)
    monkeypatch.setattr("engine.checkpoint.read_tensor", read)
    with pytest.raises(
        ModelError, match=r"The weights take at least 0\.0 GiB of memory and 0\.0 GiB are free"
    ):
        load_model(options_for(tmp_path), show_progress=False)
    _leave(monkeypatch, "rank_loading", needed)
    with pytest.raises(AssertionError, match="was read"):
        load_model(options_for(tmp_path), show_progress=False)


def test_narrower_weights_need_less(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    config = load_config(tmp_path, {})
    needed = [
        weight_bytes(config, resolve_placement(options_for(tmp_path, **changes), config))
        for changes in (
            *({"dtype": "float32"}, {"dtype": "bfloat16"}),
            *({"quantization": "int8"}, {"quantization": "int4"}),
        )
    ]
    assert needed[0] == 2 * needed[1] == 4 * parameter_count(config)
    assert needed[0] > needed[2] > needed[3]


def test_a_cache_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    _leave(monkeypatch, "loading", 100_000)
    with pytest.raises(ModelError, match=r"The cache takes .* lower --kv-cache-memory"):
        load_model(options_for(tmp_path, kv_cache_memory=1 << 30), show_progress=False)
    load_model(
        options_for(tmp_path, kv_cache_memory=50_000, max_num_seqs=1, max_rows_per_step=64),
        show_progress=False,
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nsecond line"),
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
)
def test_an_allocation_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("engine.rank_loading.make_state", fail)
    with pytest.raises(ModelError, match="not enough memory for this model") as caught:
        load_model(options_for(tmp_path), show_progress=False)
    assert "\n" not in str(caught.value)
    error = RuntimeError("another")
    with pytest.raises(RuntimeError, match="another"):
        load_model(options_for(tmp_path), show_progress=False)

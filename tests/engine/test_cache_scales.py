"""Scales of an e4m3 cache fit the model's keys and values, head by head."""

import torch
from safetensors.torch import load_file, save_file

from engine.cache_scales import HEADROOM
from kernels import e4m3
from tests.engine.harness import Checkpoint, checkpoint

FP8 = {"attention_backend": "reference", "kv_cache_dtype": "fp8"}


def largest(model: Checkpoint, **options: object) -> list[list[torch.Tensor]]:
    """Per layer the largest key and value per head, after a prompt went through a float32 cache."""
    driver = model.driver(attention_backend="reference", prefix_caching=False, **options)
    driver.one(list(range(3, 60)), max_tokens=1)
    caches = driver.core.model.runner.state.caches
    return [[stored.abs().amax(dim=(0, 2, 3)) for stored in (c.keys, c.values)] for c in caches]


def test_every_head_gets_the_room_that_it_needs():
    model = checkpoint(seed=2)
    file = model.path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors[name][:16] *= 3000.0  # head 0 of layer 1: keys far beyond 448
    save_file(tensors, file)
    caches = model.core(**FP8).model.runner.state.caches
    for cache, (key, value) in zip(caches, largest(model), strict=True):
        for scales, seen in ((cache.key_scales, key), (cache.value_scales, value)):
            assert (scales * e4m3.LARGEST > seen).all(), "another prompt's values fit too"
            assert (scales * e4m3.LARGEST < 4 * HEADROOM * seen).all(), "and no head wastes its range"
    assert caches[1].key_scales[0] > 100 * caches[1].key_scales[1]


def test_loading_twice_gives_the_same_scales_and_an_empty_cache():
    model = checkpoint(seed=3)
    first, second = (model.core(**FP8).model.runner.state for _ in range(2))
    for one, other in zip(first.caches, second.caches, strict=True):
        assert torch.equal(one.key_scales, other.key_scales)
        assert torch.equal(one.value_scales, other.value_scales)
    assert not first.carries.any()
    assert not any(cache.keys.any() or cache.values.any() for cache in first.caches)

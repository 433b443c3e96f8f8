"""The formats that a plan assumes are those that the engine chooses."""

from pathlib import Path

import pytest
import torch

from engine.config import load_config
from engine.options import EngineOptions
from engine.placement import resolve_placement
from kernels.weight_formats import pack
from planning.errors import PlanError
from planning.formats import LAYER_BITS, formats_of
from tests.make_checkpoint import make_checkpoint, random_config


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("cache", ["auto", "float32", "bfloat16"])
def test_on_a_cpu_they_are_the_engines(tmp_path: Path, stored: str, dtype: str, cache: str) -> None:
    make_checkpoint(tmp_path, random_config(torch_dtype=stored), seed=0)
    config = load_config(tmp_path, {})
    options = EngineOptions(model_dir=str(tmp_path), device="cpu", dtype=dtype, kv_cache_dtype=cache)  # type: ignore[arg-type]
    placement = resolve_placement(options, config)
    formats = formats_of(config, True, dtype, cache, "none")  # type: ignore[arg-type]
    assert formats.weight_bytes == placement.weight_dtype.itemsize
    assert formats.layer_bits == 8 * placement.weight_dtype.itemsize
    assert formats.activation_bytes == placement.dtype.itemsize
    assert formats.cache_bytes == placement.cache_dtype.itemsize


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_bits_of_quantised_weights_are_those_of_the_packed_ones(quantization: str) -> None:
    packed = pack(torch.randn(256, 1024), quantization)  # type: ignore[arg-type]
    assert packed.num_bytes * 8 / (256 * 1024) == LAYER_BITS["cpu"][quantization]


@pytest.mark.parametrize(
    ("is_cpu", "options", "text"),
    [
        (True, ("float16", "auto", "none"), "float32 or bfloat16"),
        (True, ("auto", "fp8", "none"), "keeps its cache in"),
        (False, ("float16", "auto", "int4"), "--dtype bfloat16"),
    ],
)
def test_what_the_engine_refuses_is_not_planned(
    tmp_path: Path, is_cpu: bool, options: tuple[str, str, str], text: str
) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    with pytest.raises(PlanError, match=text):
        formats_of(load_config(tmp_path, {}), is_cpu, *options)  # type: ignore[arg-type]

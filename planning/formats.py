"""In how many bytes weights, activations and the cache are kept, as the engine chooses them."""

from dataclasses import dataclass

from engine.config import ModelConfig
from engine.options import CacheDtypeName, DtypeName, Quantization
from planning.errors import PlanError

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1}

LAYER_BITS = {
    "gpu": {"int8": 8.0, "int4": 4 + 32 / 128},
    "cpu": {"int8": 8 + 32 / 128, "int4": 4 + 32 / 32},
}
"""Bits per weight with its scales. GPU (`kernels.quantized_linear`): a scale per output, too few to count; a bfloat16
scale and zero point per 128 inputs. CPU (`kernels.weight_formats`): a float32 scale per 128 or 32 inputs."""


@dataclass(frozen=True, slots=True)
class Formats:
    """Bytes per element.

    Attributes:
        weight_bytes: of weights that are not quantised: embedding, head, and the layers' without `--quantization`.
        layer_bits: per weight of the layers' products.
        own_head: the head is a copy in memory of its own even if it is tied to the embedding.
    """

    weight_bytes: int
    layer_bits: float
    activation_bytes: int
    cache_bytes: int
    own_head: bool


def formats_of(
    config: ModelConfig,
    is_cpu: bool,
    dtype: DtypeName,
    kv_cache_dtype: CacheDtypeName,
    quantization: Quantization,
) -> Formats:
    """What the engine would choose on a GPU or a CPU for these options (`engine.placement`).

    Raises:
        PlanError: the engine would refuse them.
    """
    weights = dtype
    if dtype == "auto":
        weights = "float32" if is_cpu and config.torch_dtype == "float16" else config.torch_dtype  # type: ignore[assignment]
    activations = "float32" if is_cpu else weights
    cache = activations if kv_cache_dtype == "auto" else kv_cache_dtype
    if is_cpu and weights == "float16":
        raise PlanError("a CPU keeps weights in float32 or bfloat16; use --dtype auto, float32 or bfloat16")
    if is_cpu and cache not in ("float32", "bfloat16"):
        raise PlanError(
            "a CPU keeps its cache in float32 or bfloat16; use --kv-cache-dtype auto, float32 or bfloat16"
        )
    if quantization == "int4" and not is_cpu and weights != "bfloat16":
        raise PlanError("--quantization int4 needs --dtype bfloat16 on a GPU; int8 runs everywhere")
    plain = 8.0 * ELEMENT_BYTES[weights]
    return Formats(
        weight_bytes=ELEMENT_BYTES[weights],
        layer_bits=LAYER_BITS["cpu" if is_cpu else "gpu"].get(quantization, plain),
        activation_bytes=ELEMENT_BYTES[activations],
        cache_bytes=ELEMENT_BYTES[cache],
        own_head=is_cpu,
    )

"""Where the model lives and in which formats: device, dtypes, kernel backend."""

import importlib.util
from dataclasses import dataclass

import torch

from engine.config import ModelConfig
from engine.errors import ModelError
from engine.host_memory import available_memory
from engine.kv_arithmetic import FREE_MEMORY_SHARE
from engine.options import EngineOptions, Quantization
from engine.weight_arithmetic import weight_bytes as bytes_by_part
from kernels.registry import BackendError, resolve_backend

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CACHE_DTYPES = {**DTYPES, "fp8": torch.uint8}
"""fp8 is e4m3 in bytes (`kernels.e4m3`)."""

QUANTIZED_BITS = {"int8": 8, "int4": 4}
"""Per weight of the layers."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Decided once at start-up.

    Attributes:
        dtype: of activations and H vectors, and of arithmetic.
        weight_dtype: that weights are stored in; narrower than `dtype` only with the CPU backend.
        cache_dtype: of keys and values; uint8 means e4m3.
        backend: name of the kernel backend.
        quantization: of the layers' weights.
    """

    device: torch.device
    dtype: torch.dtype
    weight_dtype: torch.dtype
    cache_dtype: torch.dtype
    backend: str
    quantization: Quantization

    @property
    def packs_panels(self) -> bool:
        """Products are `kernels.panel_linear`'s."""
        return (self.device.type, self.dtype) == ("cpu", torch.float32)

    @property
    def captures_graphs(self) -> bool:
        """A pass is launches only; the other backends read tensors on the host in between."""
        return self.device.type == "cuda" and self.backend == "triton"


def resolve_placement(options: EngineOptions, config: ModelConfig, rank: int = 0) -> Placement:
    """What the options mean on this machine; each rank of a split model has a GPU of its own.

    Raises:
        ModelError: the device is missing or doesn't support what is asked for.
    """
    device = _device(options, rank)
    try:
        backend = resolve_backend(options.attention_backend, device)
    except BackendError as error:
        raise ModelError(str(error)) from None
    weight_dtype = DTYPES[
        _natural_dtype(config, device, backend) if options.dtype == "auto" else options.dtype
    ]
    dtype = torch.float32 if backend == "cpu" else weight_dtype
    cache_dtype = dtype if options.kv_cache_dtype == "auto" else CACHE_DTYPES[options.kv_cache_dtype]
    if backend == "cpu" and weight_dtype == torch.float16:
        raise ModelError(
            "--attention-backend cpu keeps weights in float32 or bfloat16; use --dtype auto, float32 or bfloat16"
        )
    if backend == "cpu" and cache_dtype not in (torch.float32, torch.bfloat16):
        raise ModelError(
            "--attention-backend cpu keeps its cache in float32 or bfloat16; use --kv-cache-dtype auto, float32 or "
            "bfloat16, or try --attention-backend reference (slow)"
        )
    if backend == "xformers" and (cache_dtype != dtype or dtype == torch.float32):
        raise ModelError(
            "--attention-backend xformers computes in float16 or bfloat16 with a cache of the same type; "
            "use triton for others"
        )
    placement = Placement(device, dtype, weight_dtype, cache_dtype, backend, options.quantization)
    _check_quantization(placement)
    return placement


def _natural_dtype(config: ModelConfig, device: torch.device, backend: str) -> str:
    """The checkpoint's, where it can be kept without slowing the arithmetic."""
    keeps = device.type == "cuda" or (backend == "cpu" and config.torch_dtype == "bfloat16")
    return config.torch_dtype if keeps else "float32"


def memory_left(device: torch.device, num_ranks: int) -> int:
    """Bytes that each rank can still allocate; ranks on the CPU share its memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return available_memory() // num_ranks


def free_memory(device: torch.device, num_ranks: int) -> int:
    """Bytes that each rank's block pool may take by default."""
    return int(memory_left(device, num_ranks) * FREE_MEMORY_SHARE[device.type])


def weight_bytes(config: ModelConfig, placement: Placement) -> int:
    """What the weights take at least, once loaded; scales and padding come on top."""
    element_bytes = placement.weight_dtype.itemsize
    bits = QUANTIZED_BITS.get(placement.quantization, 8 * element_bytes)
    return bytes_by_part(config, element_bytes, bits).total


def _check_quantization(placement: Placement) -> None:
    quantization = placement.quantization
    if quantization == "none" or placement.packs_panels:
        return
    if importlib.util.find_spec("torchao") is None:
        raise ModelError(
            f"--quantization {quantization} needs the package torchao: pip install 'loopserve[quantization]'"
        )
    if quantization == "int4" and (placement.device.type, placement.dtype) != ("cuda", torch.bfloat16):
        raise ModelError(
            "--quantization int4 needs --dtype bfloat16 on a GPU or float32 arithmetic on the CPU; "
            "int8 runs everywhere"
        )


def _device(options: EngineOptions, rank: int) -> torch.device:
    name, size = str(options.device), options.tensor_parallel_size
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "--device cuda: torch finds no GPU; install its CUDA build and a driver, or use --device cpu"
        )
    if name == "cpu" or size == 1:
        return torch.device(name)
    if torch.cuda.device_count() < size:
        raise ModelError(
            f"--tensor-parallel-size {size} needs {size} GPUs, but torch finds {torch.cuda.device_count()}; "
            "lower it, or use --device cpu"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)  # where kernels that are launched without a tensor's device go
    return device

"""Times attention under other launch parameters than `kernels/gpu/launch.py` has, for the measured model's shape."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from triton.testing import do_bench

from engine.staging import Staging
from kernels.gpu.split_attention import merge_parts, partial_attention
from kernels.gpu.tile_attention import tile_attention
from kernels.gpu.triton_backend import TritonBackend, launch_kernel
from kernels.interface import LayerCache
from tests.kernels.batches import random_case, tiled_for


@dataclass(frozen=True, slots=True)
class Alternative:
    """Launch parameters of the kernels that walk keys."""

    keys: int
    num_warps: int
    num_stages: int


ALTERNATIVES = [
    Alternative(keys, warps, stages)
    for keys, warps, stages in itertools.product((16, 32, 64, 128), (2, 4, 8), (1, 2, 3, 4))
]


@dataclass(frozen=True, slots=True)
class Workload:
    """One attention call: `rows` rows per loop of every sequence, which has `context` keys."""

    name: str
    sequences: int
    context: int
    rows: int
    num_loops: int = 2


WORKLOADS = (
    Workload("decode, 1 × 8k", 1, 8192, 1),
    Workload("decode, 32 × 2k", 32, 2048, 1),
    Workload("decode, 64 × 500", 64, 500, 1),
    Workload("prefill, 1 × 2k", 1, 2048, 1024),
)


@dataclass(frozen=True, slots=True)
class LaunchTime:
    """Milliseconds of a workload, with the parameters in force and with the best alternative."""

    workload: Workload
    default: float
    best: float
    alternative: Alternative
    failed: int


def measure_launches(
    config: dict[str, Any],
    device: torch.device,
    workloads: tuple[Workload, ...],
    alternatives: list[Alternative],
) -> list[LaunchTime]:
    """Time every alternative on every workload; those that don't launch (too much shared memory) are counted."""
    results = []
    for workload in workloads:
        call = _attention_call(config, device, workload)
        default = _milliseconds(lambda call=call: call(TritonBackend()), device)  # type: ignore[misc]
        times: dict[Alternative, float] = {}
        for alternative in alternatives:
            backend = TritonBackend(_launch_with(alternative))
            try:
                times[alternative] = _milliseconds(lambda b=backend, call=call: call(b), device)  # type: ignore[misc]
            except (
                Exception
            ) as error:  # what doesn't fit fails in the compiler or the driver, each with its own type
                print(f"{workload.name}: {alternative} does not launch: {type(error).__name__}")
        best = min(times, key=lambda a: times[a])
        results.append(LaunchTime(workload, default, times[best], best, len(alternatives) - len(times)))
    return results


def _launch_with(alternative: Alternative) -> Callable[..., None]:
    def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        if kernel in (tile_attention, partial_attention):
            options |= {"KEYS": alternative.keys, "num_warps": alternative.num_warps}
            options["num_stages"] = alternative.num_stages
        elif kernel is merge_parts:
            options["num_warps"] = alternative.num_warps
        launch_kernel(kernel, grid, *arguments, **options)

    return launch


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        median: float = do_bench(work, return_mode="median")
        return median
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def _attention_call(
    config: dict[str, Any], device: torch.device, workload: Workload
) -> Callable[[TritonBackend], torch.Tensor]:
    case = tiled_for(
        TritonBackend(),
        random_case(
            0,
            num_loops=workload.num_loops,
            kv_heads=config["num_key_value_heads"],
            group=config["num_attention_heads"] // config["num_key_value_heads"],
            head_dim=config["head_dim"],
            block_size=16,
            window=config["plt_window_size"][0],
            lengths=(workload.context,) * workload.sequences,
            new_rows=(workload.rows,) * workload.sequences,
            dtype=getattr(torch, config["torch_dtype"]),
        ),
    )
    cache = LayerCache(case.cache.keys.to(device), case.cache.values.to(device))
    queries, gates = case.queries.to(device), case.gates.to(device)
    batch = Staging(device).upload(case.batch)
    return lambda backend: backend.attend(cache, queries, gates, batch)

"""Which backend a name means, and one clear line where it can't be had."""

import importlib.util

import pytest
import torch

from kernels import registry
from kernels.cpu import CpuBackend
from kernels.registry import BACKENDS, BackendError, load_backend, resolve_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_the_devices_fastest() -> None:
    assert resolve_backend("auto", CPU) == "cpu"
    assert resolve_backend("auto", CUDA) == "triton"
    assert isinstance(load_backend("cpu"), CpuBackend)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_loads(name: str) -> None:
    backend = load_backend(name)
    assert backend.tiling(64, 5, 2, torch.bfloat16).tile_rows >= 1


@pytest.mark.parametrize(
    ("name", "device", "problem"),
    [
        ("magic", CPU, "choose auto, cpu, reference, triton, xformers"),
        ("cpu", CUDA, "computes on the CPU only"),
        ("triton", CPU, "set TRITON_INTERPRET=1"),
        ("xformers", CPU, "needs an NVIDIA GPU"),
    ],
)
def test_what_cannot_run_is_refused(
    name: str, device: torch.device, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "INTERPRETED", False)
    with pytest.raises(BackendError, match=problem) as refused:
        resolve_backend(name, device)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["triton", "xformers"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=rf"needs the package {name}: pip install 'loopserve\[cuda\]'"):
        resolve_backend(name, CUDA)

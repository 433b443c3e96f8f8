"""Chooses the kernel backend, once."""

import importlib
import importlib.util
import os

import torch

from kernels.interface import KernelBackend

BACKENDS = {
    "cpu": "kernels.cpu:CpuBackend",
    "reference": "kernels.reference:ReferenceBackend",
    "triton": "kernels.gpu.triton_backend:TritonBackend",
    "xformers": "kernels.gpu.xformers_backend:XformersBackend",
}
"""Where each backend is; a backend is imported when it is chosen, since GPU packages are optional."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton kernels run on the CPU, slowly, in Triton's interpreter."""


class BackendError(ValueError):
    """A backend can't be used here; the text says what to do."""


def resolve_backend(name: str, device: torch.device) -> str:
    """The backend that `name` means: "auto" is the fastest for the device.

    Raises:
        BackendError: the name is unknown, or the backend can't run on this device or lacks its package.
    """
    if name == "auto":
        name = "triton" if device.type == "cuda" else "cpu"
    if name not in BACKENDS:
        raise BackendError(f"unknown attention backend {name!r}; choose auto, {', '.join(sorted(BACKENDS))}")
    if name == "cpu" and device.type != "cpu":
        raise BackendError("--attention-backend cpu computes on the CPU only; use triton on a GPU")
    if name == "triton" and device.type == "cpu" and not INTERPRETED:
        raise BackendError(
            "--attention-backend triton needs a GPU; to try the kernels without one, slowly, set TRITON_INTERPRET=1"
        )
    if name == "xformers" and device.type == "cpu":
        raise BackendError("--attention-backend xformers needs an NVIDIA GPU; on a CPU use auto")
    if name in ("triton", "xformers") and importlib.util.find_spec(name) is None:
        raise BackendError(
            f"--attention-backend {name} needs the package {name}: pip install 'loopserve[cuda]'"
        )
    return name


def load_backend(name: str) -> KernelBackend:
    """Import and make a backend by its resolved name."""
    module, _, attribute = BACKENDS[name].partition(":")
    backend: KernelBackend = getattr(importlib.import_module(module), attribute)()
    return backend

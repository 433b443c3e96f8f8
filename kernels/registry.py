"""Chooses the attention backend, once."""

from kernels.cpu import CpuAttention
from kernels.interface import AttentionBackend
from kernels.reference import ReferenceAttention

BACKENDS: dict[str, type[CpuAttention] | type[ReferenceAttention]] = {
    CpuAttention.name: CpuAttention,
    ReferenceAttention.name: ReferenceAttention,
}


def attention_backend(name: str) -> AttentionBackend:
    """Make the backend with this name; "auto" is the fastest one for this machine.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name == "auto":
        return CpuAttention()
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend {name!r}; choose auto, {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name]()

"""Compiles the CPU kernels before the first request needs them (seconds once, then read from numba's cache)."""

from kernels import cpu, row_ops


def compile_kernels() -> None:
    """Call every kernel, serial and parallel, on the smallest inputs."""
    row_ops.compile_all()
    cpu.compile_all()

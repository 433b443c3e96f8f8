"""Compiles a recorded launch for a target, specialised just as Triton's JIT would do it on that GPU."""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from tools.compile_kernels.launches import Launch
from tools.compile_kernels.measure import Resources, amd_resources, nvidia_resources
from tools.compile_kernels.targets import Target

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True, slots=True)
class Specialization:
    """What the JIT's cache keys a compiled kernel by; launches that agree in it share one.

    Attributes:
        types: of each parameter: "*bf16", "i32", "constexpr", …
        hints: of each parameter: "D" (divisible by 16), "S" (AMD: below 2 GiB), or "".
        constants: values of the "constexpr" parameters, by their index.
    """

    kernel: str
    types: tuple[str, ...]
    hints: tuple[str, ...]
    constants: tuple[tuple[int, int], ...]
    options: tuple[tuple[str, int], ...]


def specialize(launch: Launch, target: Target) -> Specialization:
    """By Triton's own binder, so that its rules needn't be repeated here."""
    kernel = launch.load_kernel()
    binder = create_function_from_signature(kernel.signature, kernel.params, _backend(target))
    bound, parameters, _ = binder(*launch.arguments, **dict(launch.constants))
    values = list(bound.values())
    return Specialization(
        launch.kernel,
        tuple(kind for kind, _ in parameters),
        tuple("" if kind == "constexpr" else hint or "" for kind, hint in parameters),
        tuple((i, values[i]) for i, (kind, _) in enumerate(parameters) if kind == "constexpr"),
        launch.options,
    )


def compile_and_measure(launch: Launch, target: Target) -> Resources | str:
    """The kernel's resources, or the first line of why it doesn't compile."""
    try:
        return _measure(_compile(launch, target), target)
    except Exception as error:  # whatever a compiler raises is this tool's finding, not its failure
        return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:300]


def _compile(launch: Launch, target: Target) -> Any:
    kernel, special = launch.load_kernel(), specialize(launch, target)
    backend = _backend(target)
    source = ASTSource(
        kernel,
        dict(zip(kernel.arg_names, special.types, strict=True)),
        {(index,): value for index, value in special.constants},
        {(index,): backend.parse_attr(hint) for index, hint in enumerate(special.hints)},
    )
    return triton.compile(source, target=backend.target, options=dict(special.options))


def _measure(compiled: Any, target: Target) -> Resources:
    shared = compiled.metadata.shared
    if target.backend == "hip":
        return amd_resources(compiled.asm["amdgcn"], shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return nvidia_resources(compiled.asm["ptx"], usage, shared, compiled.metadata.tmem_size)


def _backend(target: Target) -> Any:
    return make_backend(GPUTarget(target.backend, target.arch, target.warp_size))

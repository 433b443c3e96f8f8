"""Reads what a compiled kernel takes from the compilers' own output."""

import re
from dataclasses import dataclass

MATRIX_INSTRUCTION = re.compile(
    r"^\s*(?:@\S+\s+)?(mma\.sync|wgmma\.mma_async|tcgen05\.mma|v_mfma)[._]", re.MULTILINE
)
"""Tensor-core instructions at the start of a line of PTX or amdgcn assembly."""


class MeasureError(ValueError):
    """A compiler's output lacks a figure that it always had."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a kernel takes of its multiprocessor.

    Attributes:
        threads: of one block.
        registers: per thread; on AMD architected and accumulation registers together.
        spilled_bytes: per thread, in local or scratch memory.
        shared_bytes: of one block.
        mma: kinds of tensor-core instruction and how many the program text has, sorted.
        tensor_columns: of tensor memory (sm_100), one block.
        scalar_registers: of one wave (AMD).
        scalar_spills: scalar registers kept in lanes of vector registers (AMD); costs instructions, not memory.
    """

    threads: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    mma: tuple[tuple[str, int], ...]
    tensor_columns: int = 0
    scalar_registers: int = 0
    scalar_spills: int = 0


def nvidia_resources(ptx: str, usage: str, shared_bytes: int, tensor_columns: int) -> Resources:
    """From PTX and the output of ``cuobjdump -res-usage``.

    Args:
        shared_bytes: that the launcher asks for, which is all of it: what `usage` calls SHARED on sm_90 and later is
            the KiB that the system takes.
    """
    return Resources(
        threads=_figure(r"^\.(?:reqntid|maxntid) (\d+)", ptx),
        registers=_figure(r"\bREG:(\d+)", usage),
        spilled_bytes=_figure(r"\bSTACK:(\d+)", usage) + _figure(r"\bLOCAL:(\d+)", usage),
        shared_bytes=shared_bytes,
        mma=_matrix_instructions(ptx),
        tensor_columns=tensor_columns,
    )


def amd_resources(assembly: str, shared_bytes: int) -> Resources:
    """From amdgcn assembly, whose metadata names each figure (LLVM, "User Guide for AMDGPU Backend").

    Args:
        shared_bytes: dynamic shared memory that the launcher asks for.
    """
    return Resources(
        threads=_figure(r"^\s*\.max_flat_workgroup_size: *(\d+)", assembly),
        registers=_figure(r"^\s*\.vgpr_count: *(\d+)", assembly),
        spilled_bytes=max(
            4 * _figure(r"^\s*\.vgpr_spill_count: *(\d+)", assembly),
            _figure(r"^\s*\.private_segment_fixed_size: *(\d+)", assembly),
        ),
        shared_bytes=shared_bytes + _figure(r"^\s*\.group_segment_fixed_size: *(\d+)", assembly),
        mma=_matrix_instructions(assembly),
        scalar_registers=_figure(r"^\s*\.sgpr_count: *(\d+)", assembly),
        scalar_spills=_figure(r"^\s*\.sgpr_spill_count: *(\d+)", assembly),
    )


def _figure(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise MeasureError(f"nothing matches {pattern!r} in the compiler's output")
    return int(found[1])


def _matrix_instructions(text: str) -> tuple[tuple[str, int], ...]:
    kinds = MATRIX_INSTRUCTION.findall(text)
    return tuple((kind, kinds.count(kind)) for kind in sorted(set(kinds)))

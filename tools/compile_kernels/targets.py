"""The GPUs compiled for, what one of their multiprocessors holds, and how many threads of a kernel that lets live.

NVIDIA's figures: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; a multiprocessor is 4
sub-partitions, and registers are given to a warp in units of 256 (CUDA Occupancy Calculator). Tensor memory: PTX ISA,
"Tensor Memory". AMD's: AMD Instinct MI300 (CDNA3) ISA and LLVM's AMDGPUBaseInfo, as its "; Occupancy:" comment.
"""

from dataclasses import dataclass
from typing import Protocol

from tools.compile_kernels.measure import Resources

KIB = 1024


class Multiprocessor(Protocol):
    """What one multiprocessor (AMD: compute unit) holds.

    Attributes:
        most_shared: most bytes of shared memory of one block.
    """

    @property
    def most_shared(self) -> int: ...

    def occupancy(self, used: Resources) -> float:
        """Share of the multiprocessor's warps that blocks of this kernel can fill, 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class NvidiaMultiprocessor:
    """Limits of one streaming multiprocessor; defaults are those that sm_80, sm_90 and sm_100 share.

    Attributes:
        shared, most_shared: bytes of shared memory in all, and of one block.
        reserved_shared: bytes that the system takes for each block.
        tensor_columns: columns of tensor memory.
    """

    shared: int
    most_shared: int
    warps: int = 64
    blocks: int = 32
    registers: int = 65536
    register_unit: int = 256
    sub_partitions: int = 4
    reserved_shared: int = KIB
    tensor_columns: int = 0

    def occupancy(self, used: Resources) -> float:
        warps = used.threads // 32
        warp_registers = _round_up(max(used.registers, 1) * 32, self.register_unit)
        by_registers = self.registers // self.sub_partitions // warp_registers * self.sub_partitions // warps
        by_shared = self.shared // (_round_up(used.shared_bytes, 128) + self.reserved_shared)
        blocks = min(self.blocks, self.warps // warps, by_registers, by_shared)
        if used.tensor_columns:
            blocks = min(blocks, self.tensor_columns // used.tensor_columns)
        return blocks * warps / self.warps


@dataclass(frozen=True, slots=True)
class AmdComputeUnit:
    """Limits of one CDNA3 compute unit; registers are those of one SIMD, per lane (VGPR) or per wave (SGPR).

    Attributes:
        vector_registers: architected and accumulation registers come from this one file.
        groups: workgroups of more than one wave, for each needs a barrier.
    """

    shared: int = 64 * KIB
    most_shared: int = 64 * KIB
    shared_unit: int = 512
    simds: int = 4
    waves_per_simd: int = 8
    groups: int = 16
    vector_registers: int = 512
    vector_unit: int = 8
    scalar_registers: int = 800
    scalar_unit: int = 16

    def occupancy(self, used: Resources) -> float:
        waves = used.threads // 64
        by_vector = self.vector_registers // _round_up(max(used.registers, 1), self.vector_unit)
        by_scalar = self.scalar_registers // _round_up(max(used.scalar_registers, 1), self.scalar_unit)
        groups = min(self.waves_per_simd, by_vector, by_scalar) * self.simds // waves
        if waves > 1:
            groups = min(groups, self.groups)
        if used.shared_bytes:
            groups = min(groups, self.shared // _round_up(used.shared_bytes, self.shared_unit))
        return groups * waves / (self.simds * self.waves_per_simd)


@dataclass(frozen=True, slots=True)
class Target:
    """A GPU family.

    Attributes:
        backend, arch, warp_size: of Triton's ``GPUTarget``.
        gpus: well-known members.
    """

    name: str
    gpus: str
    backend: str
    arch: int | str
    warp_size: int
    multiprocessor: Multiprocessor


TARGETS = (
    Target("sm_80", "A100", "cuda", 80, 32, NvidiaMultiprocessor(164 * KIB, 163 * KIB)),
    Target("sm_90", "H100, H200", "cuda", 90, 32, NvidiaMultiprocessor(228 * KIB, 227 * KIB)),
    Target("sm_100", "B200", "cuda", 100, 32, NvidiaMultiprocessor(228 * KIB, 227 * KIB, tensor_columns=512)),
    Target("gfx942", "MI300X, MI325X", "hip", "gfx942", 64, AmdComputeUnit()),
)


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit

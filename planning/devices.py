"""Hardware as four numbers: peaks of data sheets, or given by hand."""

from dataclasses import dataclass

from planning.errors import PlanError


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or one machine's CPU.

    Attributes:
        bandwidth: bytes per second of its memory.
        flops: dense FLOPs per second of products in the activations' type; of a named GPU in bfloat16.
        memory: bytes.
        link: bytes per second that it sends to another while it receives as much; None if unknown.
        source: where the figures are from.
        is_cpu: arithmetic is float32, and the cache by default.
    """

    name: str
    bandwidth: float
    flops: float
    memory: float
    link: float | None = None
    source: str = "given by hand"
    is_cpu: bool = False


_NVLINK_3, _NVLINK_4, _NVLINK_5, _PCIE_4 = 300e9, 450e9, 900e9, 32e9
"""One direction: data sheets give both together (600, 900 and 1,800 GB/s; PCIe 4.0 x16: 64 GB/s)."""

A100 = Device(
    "A100 80GB SXM",
    2.039e12,
    312e12,
    80e9,
    _NVLINK_3,
    "NVIDIA A100 data sheet, 2021: 312 TFLOPS without sparsity",
)
H100 = Device(
    "H100 SXM",
    3.35e12,
    989.4e12,
    80e9,
    _NVLINK_4,
    "NVIDIA H100 data sheet, 2023: half of 1,979 TFLOPS with sparsity",
)
GPUS: dict[str, Device] = {
    "l4": Device(
        "L4", 300e9, 121e12, 24e9, _PCIE_4, "NVIDIA L4 data sheet, 2023: half of 242 TFLOPS with sparsity"
    ),
    "a10": Device(
        "A10", 600e9, 125e12, 24e9, _PCIE_4, "NVIDIA A10 data sheet, 2021: 125 TFLOPS without sparsity"
    ),
    "rtx4090": Device(
        "GeForce RTX 4090",
        *(1.008e12, 165.2e12, 24e9, _PCIE_4),
        "NVIDIA Ada GPU architecture, 2022: 165.2 TFLOPS with float32 sums, without sparsity",
    ),
    "l40s": Device(
        "L40S",
        864e9,
        362.05e12,
        48e9,
        _PCIE_4,
        "NVIDIA L40S data sheet, 2023: 362.05 TFLOPS without sparsity",
    ),
    "a100-40gb": Device(
        "A100 40GB SXM",
        1.555e12,
        312e12,
        40e9,
        _NVLINK_3,
        "NVIDIA A100 data sheet, 2021: 312 TFLOPS without sparsity",
    ),
    "a100": A100,
    "h100": H100,
    "h200": Device(
        "H200 SXM",
        4.8e12,
        989.4e12,
        141e9,
        _NVLINK_4,
        "NVIDIA H200 data sheet, 2024: half of 1,979 TFLOPS with sparsity",
    ),
    "b200": Device(
        "B200 in DGX B200",
        *(8e12, 2.25e15, 180e9, _NVLINK_5),
        "NVIDIA DGX B200 data sheet, 2024, an eighth of it: half of 4.5 PFLOPS with sparsity",
    ),
}
"""By the name that `--gpu` takes."""


def named_gpu(name: str) -> Device:
    """A GPU of the table.

    Raises:
        PlanError: it has no such name.
    """
    found = GPUS.get(name.lower())
    if found is None:
        raise PlanError(
            f"--gpu {name!r} is not known; choose {', '.join(GPUS)}, or give --memory, --bandwidth and --flops"
        )
    return found

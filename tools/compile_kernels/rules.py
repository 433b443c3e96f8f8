"""What a compiled kernel must not do."""

from dataclasses import dataclass

from tools.compile_kernels.launches import Launch, Use
from tools.compile_kernels.measure import Resources
from tools.compile_kernels.targets import Target

ATTENTION = ("tile_attention", "partial_attention")
SMALL_SPILL = 16
"""Bytes per thread that decode may spill: ptxas gives up a register or two where that lets one more block live."""
WIDE_HEAD = 256
WIDE_HEAD_SPILL = 160
"""Bytes per thread that decode may spill for heads of `WIDE_HEAD`: in `tile_attention` the sums of the shared part and
of the windows live at once, with 64 lanes 128 KiB of a multiprocessor's 256 KiB of registers."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel configuration on one target.

    Attributes:
        uses: what it is launched for.
        outcome: its resources, or why it doesn't compile.
    """

    launch: Launch
    uses: tuple[Use, ...]
    target: Target
    outcome: Resources | str

    @property
    def is_decode(self) -> bool:
        return any("decode" in use.phase for use in self.uses)

    @property
    def is_half(self) -> bool:
        """Computes in a 16-bit type."""
        return not any(use.precision.startswith("fp32") for use in self.uses)


def broken_rules(compiled: Compiled) -> list[str]:
    """Each broken rule in words; nothing if all hold."""
    used, kernel = compiled.outcome, compiled.launch.kernel_name
    if isinstance(used, str):
        return [f"does not compile: {used}"]
    broken = []
    head_dim = dict(compiled.launch.constants).get("PADDED_DIM", 0)
    allowed = WIDE_HEAD_SPILL if head_dim >= WIDE_HEAD else SMALL_SPILL
    if compiled.is_decode and used.spilled_bytes > allowed:
        broken.append(f"a decode kernel spills {used.spilled_bytes} bytes per thread")
    most_shared = compiled.target.multiprocessor.most_shared
    if used.shared_bytes > most_shared:
        broken.append(f"{used.shared_bytes} bytes of shared memory, more than {most_shared}")
    if compiled.target.multiprocessor.occupancy(used) == 0:
        broken.append("not one block fits a multiprocessor")
    if kernel in ATTENTION and compiled.is_half and not used.mma:
        broken.append("attention in half precision without a tensor-core instruction")
    return broken

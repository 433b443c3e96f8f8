"""What a compiled kernel must not do."""

from dataclasses import dataclass

from tools.compile_kernels.launches import Launch, Use
from tools.compile_kernels.measure import Resources
from tools.compile_kernels.targets import Target

ATTENTION = ("tile_attention", "partial_attention")


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
    if compiled.is_decode and used.spilled_bytes:
        broken.append(f"a decode kernel spills {used.spilled_bytes} bytes per thread")
    most_shared = compiled.target.multiprocessor.most_shared
    if used.shared_bytes > most_shared:
        broken.append(f"{used.shared_bytes} bytes of shared memory, more than {most_shared}")
    if compiled.target.multiprocessor.occupancy(used) == 0:
        broken.append("not one block fits a multiprocessor")
    if kernel in ATTENTION and compiled.is_half and not used.mma:
        broken.append("attention in half precision without a tensor-core instruction")
    return broken

"""What the server would launch: the production backend's own launches, recorded instead of run."""

import importlib
from dataclasses import dataclass
from typing import Any

import torch

POINTER_RANGE = 2**31
"""Bytes of a tensor that 32-bit offsets reach; Triton compiles for AMD otherwise below it."""


@dataclass(frozen=True, slots=True)
class TensorArgument:
    """A tensor as Triton's specialisation sees it: the caching allocator aligns all of them to 512 bytes.

    Attributes:
        is_large: more than `POINTER_RANGE` bytes.
    """

    dtype: torch.dtype
    is_large: bool

    def data_ptr(self) -> int:
        return 0

    def ptr_range(self) -> int:
        return POINTER_RANGE if self.is_large else 0


Argument = TensorArgument | int | float


@dataclass(frozen=True, slots=True)
class Launch:
    """One call of a kernel, without its grid, which compiling doesn't depend on.

    Attributes:
        kernel: "module:name".
        arguments: positional.
        constants: compile-time constants by name.
        options: ``num_warps``, and ``num_stages`` where it matters.
    """

    kernel: str
    arguments: tuple[Argument, ...]
    constants: tuple[tuple[str, int], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def kernel_name(self) -> str:
        return self.kernel.partition(":")[2]

    def load_kernel(self) -> Any:
        module, _, name = self.kernel.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, slots=True)
class Use:
    """What a launch is for.

    Attributes:
        phase: "decode", "split decode", "prefill" or "any".
        precision: compute dtype, and the cache's if the kernel touches it and it differs.
    """

    phase: str
    precision: str


class Recorder:
    """Stands in for `kernels.gpu.triton_backend.launch_kernel`; identical launches are kept once.

    Attributes:
        uses: every launch so far, and what it is for.
        phase, precision: of the launches that follow.
    """

    def __init__(self) -> None:
        self.uses: dict[Launch, set[Use]] = {}
        self.phase = "any"
        self.precision = ""

    def __call__(self, kernel: Any, _grid: tuple[int, ...], *arguments: Any, **options: int) -> None:
        function = kernel.fn
        launch = Launch(
            f"{function.__module__}:{function.__name__}",
            tuple(_argument(argument) for argument in arguments),
            tuple((name, value) for name, value in options.items() if name.isupper()),
            tuple((name, value) for name, value in options.items() if not name.isupper()),
        )
        self.uses.setdefault(launch, set()).add(Use(self.phase, self.precision))


def _argument(value: Any) -> Argument:
    if isinstance(value, torch.Tensor):
        return TensorArgument(value.dtype, value.untyped_storage().size() > POINTER_RANGE - 1)
    assert isinstance(value, int | float)
    return value

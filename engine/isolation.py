"""One request's exception costs that request, never the engine and never its neighbours.

What is done per request is done inside a `Boundary`. What is done for a whole batch goes through `bisect`: if it
raises, halves of the batch are tried until what raises is one request. That needs work that can be done twice, and it
is: a pass writes the same K/V to the same cache slots and the same H to the same carry slots and block snapshots, reads
only carry slots that it does not write, and a block is put in the prefix cache by the commit after it; sampling leaves
logits and states alone until its result is counted. On a backend whose rows don't depend on their neighbours (the
CPU's), those who stay get bit by bit what they would have got without the culprit.

Fatal instead (`is_fatal`): lost ranks, broken books, a broken accelerator, and whatever wants the process to end.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeVar

import torch

from engine.errors import EngineDeadError, is_isolable
from scheduler.errors import InvariantError
from scheduler.sequence import Sequence

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

Stage = Literal["admission", "grammar", "forward", "sampling", "output"]

_DEVICE_ERROR = re.compile(r"(CUDA|HIP) error|Triton Error")
"""How cuBLAS, Triton and the like report a device that is lost; PyTorch itself raises `AcceleratorError`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A sequence that can't go on, and why."""

    sequence: Sequence
    stage: Stage
    error: BaseException


def is_fatal(error: BaseException) -> bool:
    """Whether an exception says that the engine is broken, rather than its work for one request.

    A device that is out of memory is none: half a batch may fit.
    """
    if not is_isolable(error) or isinstance(error, EngineDeadError | InvariantError | torch.AcceleratorError):
        return True
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError) and _DEVICE_ERROR.search(str(error)) is not None


def failure_text(stage: Stage) -> str:
    """What the client is told; the exception's own text is for the log, it may quote anything."""
    return (
        f"The engine failed on this request, and on no other, in its {stage} stage. Send it again; if that fails, "
        "report it with the request id."
    )


class Boundary:
    """Work for one sequence: an exception, unless it is fatal, ends here and is noted in `failures`."""

    __slots__ = ("failures", "sequence", "stage")

    def __init__(self, failures: list[Failure], sequence: Sequence, stage: Stage) -> None:
        self.failures = failures
        self.sequence = sequence
        self.stage = stage

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or is_fatal(error):
            return False
        self.failures.append(Failure(self.sequence, self.stage, error))
        return True


def bisect(
    items: list[T], compute: Callable[[list[T]], R]
) -> tuple[list[tuple[list[T], R]], list[tuple[T, BaseException]]]:
    """Compute all items at once if that works, else as few parts as keep those apart with which it doesn't.

    Args:
        compute: gives a non-empty part's result, or raises; may be called again for parts of what it was called for.

    Returns:
        The parts that were computed with their results, in the order of the items, and the items that weren't, each
        with what it alone raised. An error that does not come again, in either half, costs nobody anything.
    """
    if not items:
        return [], []
    error = None
    try:
        return [(items, compute(items))], []
    except BaseException as raised:
        if is_fatal(raised):
            raise
        error = raised
    if len(items) == 1:
        return [], [(items[0], error)]
    middle = len(items) // 2
    done, failed = bisect(items[:middle], compute)
    more_done, more_failed = bisect(items[middle:], compute)
    if not failed and not more_failed:
        logger.warning("an error did not come again when its batch was cut in two", exc_info=error)
    return done + more_done, failed + more_failed

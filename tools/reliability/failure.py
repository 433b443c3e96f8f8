"""What keeps a proof from being carried out; a broken promise is a result instead."""

from engine.errors import LoopserveError


class ReliabilityError(LoopserveError):
    """The run can't go on; the text says why."""

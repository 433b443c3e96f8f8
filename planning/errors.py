"""What can't be planned."""

from engine.errors import LoopserveError


class PlanError(LoopserveError):
    """A figure is missing or makes no sense; the text says which and what to do."""

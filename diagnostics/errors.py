"""What goes wrong in a diagnosis."""

from engine.errors import LoopserveError


class DiagnosticsError(LoopserveError):
    """A model or a text can't be diagnosed; the text says what to do."""

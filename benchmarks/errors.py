"""What goes wrong in a benchmark."""

from engine.errors import LoopserveError


class BenchmarkError(LoopserveError):
    """A benchmark can't run or found something wrong; the text says what to do."""

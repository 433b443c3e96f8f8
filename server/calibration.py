"""Whether the engine calibrates, what it found, and when it may be asked to again."""

from engine.messages import Calibrated, CalibratedCell
from server.error_catalogue import CALIBRATED_RECENTLY, CALIBRATION_RUNNING, NOTHING_TO_CALIBRATE
from server.errors import ConflictError

PAUSE_S = 60.0
"""From the end of a calibration that was asked for to the next: each slows requests down for some seconds."""


class CalibrationState:
    """Of one engine client; survives restarts of the engine, whose last result stays until the next comes.

    Attributes:
        running: asked for and not ended.
        result: what came last, None before.
    """

    def __init__(self) -> None:
        self.running = False
        self.result: Calibrated | None = None
        self._ended: float | None = None

    @property
    def cells(self) -> list[CalibratedCell]:
        """By sequences and context."""
        return [] if self.result is None else self.result.cells

    def begin(self, num_loops: int, now: float) -> None:
        """Note that one is being asked for.

        Args:
            num_loops: of the model.
            now: monotonic seconds.

        Raises:
            ConflictError: there is nothing to compare, one is running, or one ended a moment ago.
        """
        if num_loops == 1:
            raise ConflictError(NOTHING_TO_CALIBRATE)
        if self.running:
            raise ConflictError(CALIBRATION_RUNNING)
        if self._ended is not None and now < self._ended + PAUSE_S:
            raise ConflictError(CALIBRATED_RECENTLY, seconds=f"{PAUSE_S:.0f}")
        self.running = True

    def end(self, result: Calibrated, now: float) -> None:
        """A result came, of one that was asked for or of the engine's start."""
        self.result = result
        if self.running:
            self.running = False
            self._ended = now

    def abandon(self) -> None:
        """The engine is gone; nothing will come."""
        self.running = False

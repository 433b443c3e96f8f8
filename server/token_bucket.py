"""A rate per minute as a bucket that fills evenly and holds one minute's worth."""

SECONDS = 60.0


class TokenBucket:
    """What is left of a rate.

    The level may fall below zero: an amount above the whole capacity passes when the bucket is full, and whoever comes
    next waits for longer. Otherwise it could never pass.

    Attributes:
        capacity: what one minute allows, and the most that can be taken at once.
    """

    def __init__(self, capacity: int, now: float) -> None:
        """A full one; `now` in seconds of a monotonic clock, here and below."""
        self.capacity = capacity
        self._level = float(capacity)
        self._since = now

    def level(self, now: float) -> float:
        """What could be taken now."""
        self._level = min(self.capacity, self._level + (now - self._since) * self.capacity / SECONDS)
        self._since = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much can be taken; 0 if it can be now."""
        missing = min(amount, self.capacity) - self.level(now)
        return max(0.0, missing * SECONDS / self.capacity)

    def take(self, amount: float, now: float) -> None:
        """Take, whether it is there or not; a negative amount gives back."""
        self._level = min(self.capacity, self.level(now) - amount)

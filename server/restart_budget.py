"""How often a dead engine may be started again."""

from collections import deque


class RestartBudget:
    """At most `most` restarts in any `window` seconds; a crash loop must end in an exit, not in heat."""

    def __init__(self, most: int, window: float) -> None:
        self._most = most
        self._window = window
        self._times: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Use one restart up; False if there is none left."""
        while self._times and now - self._times[0] > self._window:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True

"""How long a refused client should wait, from what is queued and how fast the engine has lately taken work up."""

import math

MIN_S = 1
MAX_S = 60
"""OpenAI's client obeys a longer `Retry-After` no more, but falls back to its own half a second."""

HORIZON_S = 20.0
UNKNOWN_QUEUE_S = 5.0
UNKNOWN_LOAD_S = 5.0


def whole_seconds(seconds: float) -> int:
    """An estimate as a `Retry-After`: rounded up, within the bounds above."""
    return math.ceil(min(max(seconds, MIN_S), MAX_S))


class QueueEstimator:
    """Time until the queue is empty at the speed of the last seconds.

    Its clock runs only while something waits, since an idle hour says nothing about speed. What is `HORIZON_S` of that
    clock ago counts 1/e as much as what is now, so a stalled engine's estimate grows from moment to moment.
    """

    def __init__(self, horizon: float = HORIZON_S) -> None:
        """No history; `horizon` in seconds."""
        self._horizon = horizon
        self._time = 0.0
        self._sequences = 0.0
        self._tokens = 0.0

    def waited(self, seconds: float) -> None:
        """So much time has passed in which something waited."""
        kept = math.exp(-max(seconds, 0.0) / self._horizon)
        self._time = self._time * kept + self._horizon * (1 - kept)
        self._sequences *= kept
        self._tokens *= kept

    def took_up(self, tokens: int) -> None:
        """The engine took up a sequence whose prompt has so many tokens."""
        self._sequences += 1
        self._tokens += tokens

    def seconds(self, sequences: int, tokens: int) -> float:
        """Estimate for a queue of so many sequences and prompt tokens in all; never falls as they grow."""
        if sequences == 0 and tokens == 0:
            return 0.0
        needed = max(_ratio(sequences, self._sequences), _ratio(tokens, self._tokens))
        if math.isinf(needed):  # nothing was taken up yet, or not for very long
            return max(UNKNOWN_QUEUE_S, MAX_S * self._time / self._horizon)
        return needed * self._time


class LoadEstimator:
    """Time until an engine that loads is ready: what the last load took, less what has passed of this one.

    A first load, or one that takes longer than the last, is expected to need half as long again as it has taken.
    """

    def __init__(self) -> None:
        """Nothing was ever loaded."""
        self._began: float | None = None
        self._last = UNKNOWN_LOAD_S

    def begin(self, now: float) -> None:
        """A load begins."""
        self._began = now

    def end(self, now: float) -> None:
        """The load has succeeded."""
        if self._began is not None:
            self._last, self._began = now - self._began, None

    def seconds(self, now: float) -> float:
        """Until the load ends; while none is under way, what the next one would take."""
        if self._began is None:
            return self._last
        passed = now - self._began
        return self._last - passed if passed < self._last else passed / 2


def _ratio(wanted: float, done: float) -> float:
    if wanted == 0:
        return 0.0
    return wanted / done if done > 1e-9 else math.inf

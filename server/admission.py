"""Who may come in: counts what is in flight and what of it waits, and refuses what is too much."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from engine.errors import InvalidRequestError
from server.error_catalogue import QUEUE_FULL, QUEUE_TOKENS_FULL
from server.errors import UnavailableError
from server.retry_after import QueueEstimator, whole_seconds


class Refusal(StrEnum):
    """Why a request was refused with 503; the label of a counter."""

    QUEUE_FULL = "queue_full"
    QUEUE_TOKENS = "queue_tokens"
    QUEUE_TIMEOUT = "queue_timeout"
    LOADING = "loading"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What may be in flight at once.

    Attributes:
        max_in_flight: sequences running and waiting.
        max_waiting_tokens: prompt tokens of the sequences that wait. A request that finds nobody waiting may exceed it.
    """

    max_in_flight: int
    max_waiting_tokens: int


class Admission:
    """The counts, the decision, and the estimate of how long it takes until there is room.

    A sequence waits from `enter` until `take_up`: in the engine's grammar gate or in the scheduler's queue. One that
    was preempted is back in that queue, but has been taken up.
    """

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is in flight; `clock` gives monotonic seconds."""
        self.in_flight = 0
        self.waiting = 0
        self.waiting_tokens = 0
        self._limits = limits
        self._clock = clock
        self._estimator = QueueEstimator()
        self._seen = clock()

    def check(self, sequences: int, tokens: int) -> None:
        """Whether a client's request may come in, all of its sequences or none.

        Args:
            tokens: of all its prompts; 0 while that is not known yet.

        Raises:
            InvalidRequestError: so many sequences would be refused for ever.
            UnavailableError: not now.
        """
        limits = self._limits
        if sequences > limits.max_in_flight:
            raise InvalidRequestError(
                f"This request makes {sequences} sequences (prompts times n); this server takes at most "
                f"{limits.max_in_flight} at once. Send less in one request.",
                param="n",
            )
        if self.in_flight + sequences > limits.max_in_flight:
            message = QUEUE_FULL.message(limit=limits.max_in_flight)
            raise UnavailableError(message, retry_after=self.retry_after(), reason=Refusal.QUEUE_FULL)
        full = self.waiting_tokens + max(tokens, 1) > limits.max_waiting_tokens
        if full and self.waiting_tokens:
            message = QUEUE_TOKENS_FULL.message(limit=limits.max_waiting_tokens)
            raise UnavailableError(message, retry_after=self.retry_after(), reason=Refusal.QUEUE_TOKENS)

    def enter(self, tokens: int) -> None:
        """A sequence with a prompt of so many tokens goes to the engine and waits there."""
        self._pass_time()
        self.in_flight += 1
        self.waiting += 1
        self.waiting_tokens += tokens

    def take_up(self, tokens: int) -> None:
        """The scheduler has taken up a sequence that waited."""
        self._pass_time()
        self._estimator.took_up(tokens)
        self.waiting -= 1
        self.waiting_tokens -= tokens

    def leave(self, tokens: int, *, waiting: bool) -> None:
        """A sequence ends; `waiting` says whether it was never taken up."""
        self._pass_time()
        self.in_flight -= 1
        if waiting:
            self.waiting -= 1
            self.waiting_tokens -= tokens

    def retry_after(self) -> int:
        """Seconds for `Retry-After`: until what waits now has been taken up, at the speed of late."""
        self._pass_time()
        return whole_seconds(self._estimator.seconds(self.waiting, self.waiting_tokens))

    def _pass_time(self) -> None:
        """Let the estimator know of the time since the last change, if somebody waited in it."""
        now = self._clock()
        if self.waiting:
            self._estimator.waited(now - self._seen)
        self._seen = now

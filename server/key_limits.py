"""How much one API key may ask for: sequences in flight, requests per minute, tokens per minute.

A request's tokens are those of its sequences' prompts and `max_tokens`. They are reserved when it starts; when it ends,
however that may be, what was not generated is given back. Without keys everybody is on one account.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from engine.messages import Request
from server.error_catalogue import KEY_BUSY, KEY_RATE_LIMITED, KEY_TOO_MANY_SEQUENCES
from server.errors import UnavailableError
from server.openai.errors import ApiError
from server.token_bucket import TokenBucket

RETRY_AFTER_BUSY_S = 1  # nobody knows when one of the key's own sequences will end


@dataclass(frozen=True, slots=True)
class KeyQuota:
    """What each key gets; None is without limit."""

    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(slots=True)
class Hold:
    """What one request has taken from its account.

    Attributes:
        generated: tokens so far, counted by whoever runs the request.
    """

    generated: int = 0


class _Account:
    """What one key has taken."""

    def __init__(self, quota: KeyQuota, now: float) -> None:
        self.sequences = 0
        rates = {"requests": quota.requests_per_minute, "tokens": quota.tokens_per_minute}
        self.buckets = {name: TokenBucket(rate, now) for name, rate in rates.items() if rate is not None}

    def take(self, amounts: dict[str, int], now: float) -> None:
        for name, bucket in self.buckets.items():
            bucket.take(amounts[name], now)


class KeyLimits:
    """The books of all accounts. Only the event loop comes here, so there are no locks."""

    def __init__(self, quota: KeyQuota, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with empty books; `clock` gives monotonic seconds."""
        self._quota = quota
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    @property
    def has_rates(self) -> bool:
        """Whether anything per minute is limited."""
        return (self._quota.requests_per_minute, self._quota.tokens_per_minute) != (None, None)

    def replace(self, quota: KeyQuota, accounts: Collection[str]) -> None:
        """There are other keys now. The rates must be the same; what runs is given back to the account it had."""
        self._quota = quota
        self._accounts = {name: one for name, one in self._accounts.items() if name in accounts}

    def check(self, account: str) -> None:
        """Refuse early, before work goes into the request, what `hold` would refuse.

        Raises:
            ApiError: 429.
        """
        self._require(self._of(account), 1, {"requests": 1, "tokens": 1})

    @contextmanager
    def hold(self, account: str, requests: Sequence[Request]) -> Iterator[Hold]:
        """Take what the sequences of one request need, and give back what is left in the end.

        Raises:
            ApiError: 429, or 400 if a key may never run so many at once. Nothing is taken then.
        """
        books, hold = self._of(account), Hold()
        prompts = sum(len(request.prompt_token_ids) for request in requests)
        answers = sum(request.params.max_tokens for request in requests)
        taken = {"requests": 1, "tokens": prompts + answers}
        self._require(books, len(requests), taken)
        books.sequences += len(requests)
        books.take(taken, self._clock())
        refused = False
        try:
            yield hold
        except UnavailableError:
            refused = hold.generated == 0  # by the server, for reasons of its own: that costs the key nothing
            raise
        finally:
            used = {"requests": 0 if refused else 1, "tokens": 0 if refused else prompts + hold.generated}
            books.sequences -= len(requests)
            books.take({name: min(0, used[name] - taken[name]) for name in taken}, self._clock())

    def headers(self, account: str) -> list[tuple[bytes, bytes]]:
        """What is left, in OpenAI's headers; `reset` is when all of it is there again."""
        now, out = self._clock(), []
        for name, bucket in self._of(account).buckets.items():
            values = {
                "limit": str(bucket.capacity),
                "remaining": str(max(0, math.floor(bucket.level(now)))),
                "reset": f"{math.ceil(bucket.wait(bucket.capacity, now))}s",
            }
            out += [(f"x-ratelimit-{what}-{name}".encode(), value.encode()) for what, value in values.items()]
        return out

    def _of(self, account: str) -> _Account:
        if account not in self._accounts:
            self._accounts[account] = _Account(self._quota, self._clock())
        return self._accounts[account]

    def _require(self, books: _Account, sequences: int, amounts: dict[str, int]) -> None:
        limit, now = self._quota.concurrency, self._clock()
        if limit is not None and sequences > limit:
            raise ApiError.of(KEY_TOO_MANY_SEQUENCES, count=sequences, limit=limit)
        if limit is not None and books.sequences + sequences > limit:
            raise ApiError.of(KEY_BUSY, headers={"Retry-After": str(RETRY_AFTER_BUSY_S)}, limit=limit)
        for name, bucket in books.buckets.items():
            wait = bucket.wait(amounts[name], now)
            if wait > 0:
                seconds = max(1, math.ceil(wait))
                raise ApiError.of(
                    KEY_RATE_LIMITED,
                    headers={"Retry-After": str(seconds)},
                    what=name,
                    limit=bucket.capacity,
                    seconds=seconds,
                )

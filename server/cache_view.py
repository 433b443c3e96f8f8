"""The map of the engine's cache, for as many readers as there are and at a price that doesn't depend on them."""

import asyncio
import time
from collections.abc import Callable

from engine.messages import CacheMap, DescribeCache
from server.error_catalogue import ENGINE_BUSY, RESTARTING
from server.errors import UnavailableError
from server.retry_after import MIN_S

FRESH_S = 1.0
"""How old a map may be that is given out again. The engine draws it between two steps, which then come later."""
TIMEOUT_S = 5.0
"""How long the engine may be in a step."""


class CacheView:
    """Asks one question at a time, whose answer is everybody's."""

    def __init__(
        self,
        send: Callable[[DescribeCache], None],
        clock: Callable[[], float] = time.monotonic,
        timeout: float = TIMEOUT_S,
    ) -> None:
        """Nothing is asked before `get`.

        Args:
            send: hands a question to the engine.
            clock: seconds.
            timeout: seconds that `get` waits.
        """
        self._send = send
        self._clock = clock
        self._timeout = timeout
        self._map: CacheMap | None = None
        self._drawn = 0.0
        self._answer: asyncio.Future[CacheMap | None] | None = None

    async def get(self) -> CacheMap:
        """A map that is at most `FRESH_S` old.

        Raises:
            UnavailableError: the engine is in a long step, or ended meanwhile.
        """
        if self._map is not None and self._clock() - self._drawn < FRESH_S:
            return self._map
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._send(DescribeCache())
        answer = self._answer
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.shield(answer)  # others may wait for it, too
        except TimeoutError:
            if self._answer is answer:  # the next to come asks again
                self._answer = None
            message = ENGINE_BUSY.message(seconds=f"{self._timeout:g}")
            raise UnavailableError(message, retry_after=MIN_S, code=ENGINE_BUSY.code or "") from None
        if found is None:
            raise UnavailableError(RESTARTING.message(), retry_after=MIN_S)
        return found

    def put(self, found: CacheMap) -> None:
        """The engine's answer."""
        self._map, self._drawn = found, self._clock()
        self._end(found)

    def lose(self) -> None:
        """The engine has ended, and its cache with it."""
        self._map = None
        self._end(None)

    def _end(self, found: CacheMap | None) -> None:
        if self._answer is not None:
            self._answer.set_result(found)
            self._answer = None

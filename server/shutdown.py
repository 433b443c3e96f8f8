"""What signals mean: the first one drains, the second one aborts."""

import asyncio
import logging
from typing import Protocol

from server.engine_client import EngineClient

logger = logging.getLogger(__name__)


class Stoppable(Protocol):
    """The two switches of `uvicorn.Server`."""

    should_exit: bool
    force_exit: bool


class Shutdown:
    """One shutdown of one server, asked for once or twice."""

    def __init__(self, server: Stoppable, client: EngineClient, grace: float) -> None:
        """Prepare.

        Args:
            server: stops accepting and returns from serving when told to.
            client: its requests in flight are waited for.
            grace: seconds they get.
        """
        self._server = server
        self._client = client
        self._grace = grace
        self._draining: asyncio.Task[None] | None = None

    def request(self) -> None:
        """A signal has come. Until the drain is over the server still answers: probes, and 503 to new requests."""
        if self._draining is None:
            logger.info("shutting down: %d requests in flight", self._client.in_flight)
            self._draining = asyncio.create_task(self._drain())
            return
        logger.warning("second signal: ending %d requests", self._client.abort_all())
        self._server.should_exit = True
        self._server.force_exit = True

    async def _drain(self) -> None:
        lost = await self._client.drain(self._grace)
        if lost:
            logger.warning("%d requests did not finish in %s s and were ended", lost, self._grace)
        self._server.should_exit = True

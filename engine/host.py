"""Where an engine runs, seen from the API process. Two hosts exist: a child process and a thread."""

import asyncio
from typing import Protocol

from engine.errors import EngineDeadError
from engine.messages import FromEngine, ToEngine


class EngineHost(Protocol):
    """One life of one engine; after its death a new host is made."""

    async def start(self) -> None:
        """Begin loading; returns without waiting for it."""

    def send(self, message: ToEngine) -> None:
        """Hand a message over; never blocks, and does nothing once the engine is gone."""

    async def receive(self) -> FromEngine:
        """The next message, in order.

        Raises:
            EngineDeadError: the engine has ended and everything it said has been returned.
        """

    def heartbeat_age(self) -> float:
        """Seconds since the engine last showed progress; 0 while it still loads."""

    async def stop(self) -> None:
        """End the engine and free everything it held; may be called twice, and at any time after `start`."""


class Inbox:
    """Messages of an engine in order, and after them its death, for ever."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[FromEngine | None] = asyncio.Queue()
        self._reason: str | None = None

    @property
    def closed(self) -> bool:
        return self._reason is not None

    def put(self, message: FromEngine) -> None:
        """Append a message; ignored after `close`."""
        if not self.closed:
            self._queue.put_nowait(message)

    def close(self, reason: str) -> None:
        """Say that nothing more will come, and why; only the first reason is kept."""
        if not self.closed:
            self._reason = reason
            self._queue.put_nowait(None)

    async def get(self) -> FromEngine:
        """The next message.

        Raises:
            EngineDeadError: closed, and everything was read.
        """
        message = await self._queue.get()
        if message is None:
            self._queue.put_nowait(None)
            raise EngineDeadError(self._reason or "")
        return message

"""Server-sent events as ready bytes: one JSON document per event, framed by LF only.

Several load generators split on LF LF, which rules CRLF out. docs/results/streaming.md says what an event costs.
A client that does not read is cut off below (`server.connection`), which is seen here as its having left.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import is_isolable
from server.openai.disconnect import unless_disconnected
from server.openai.errors import ApiError, ClientDisconnectedError, log_if_bug, to_api_error

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

encode = msgspec.json.Encoder().encode


def event(data: object, name: str | None = None) -> bytes:
    """One event; `name` is for APIs whose events are typed."""
    frame = b"data: " + encode(data) + b"\n\n"
    return frame if name is None else b"event: " + name.encode() + b"\n" + frame


def failed(error: ApiError) -> bytes:
    """How a stream of OpenAI's chunks ends that can't go on: the error object, and the usual `[DONE]`."""
    return event(error.body()) + DONE


class EventStream(Response):
    """A response of events that ends the work behind it when it ends, however it ends.

    A failure after the first byte can't be an HTTP status any more: it becomes what `failure` makes of it. While there
    is nothing to send, comments keep proxies and clients from giving up.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: asyncio.Task[bytes],
        rest: AsyncGenerator[bytes, None],
        *,
        keep_alive: float = 0,
        failure: Callable[[ApiError], bytes] = failed,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._failure = failure
        self._keep_alive = keep_alive
        self._sent_at = 0.0  # when the last event was handed on

    @classmethod
    async def open(
        cls,
        events: AsyncGenerator[bytes, None],
        *,
        keep_alive: float = 0,
        taken_up: asyncio.Future[None] | None = None,
        failure: Callable[[ApiError], bytes] = failed,
    ) -> "EventStream":
        """Wait for the first event, so that what fails before it is still answered by a real HTTP status.

        Args:
            events: at least one.
            keep_alive: seconds without an event after which a comment is sent, 0 for never. A first event is waited
                for so long, too; then the status is given up for the sake of the connection.
            taken_up: done once the request waits no longer. Until then it may still be refused, and a client retries
                a refusal only if it is a status; so the keep-alive's time begins there.
            failure: writes how a stream ends that can't go on.
        """
        first = asyncio.create_task(_next(events))
        try:
            if keep_alive and taken_up is not None:
                await asyncio.wait((first, taken_up), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((first,), timeout=keep_alive or None)
            if first.done():
                first.result()  # raises what went wrong
            return cls(first, events, keep_alive=keep_alive, failure=failure)
        except BaseException:
            await _cancel(first)
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        try:
            await unless_disconnected(receive, self._send_all(send))
        except ClientDisconnectedError as error:
            logger.debug("stream ended early: %s", type(error).__name__)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._rest):
            try:
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                async with self._comments(send):
                    await self._send_events(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await _cancel(self._first)  # still waited for if the client has gone

    async def _send_events(self, send: Send) -> None:
        try:
            if not self._first.done():
                await self._send_part(send, KEEP_ALIVE)
            await self._send_part(send, await self._first)
            async for part in self._rest:
                await self._send_part(send, part)
        except BaseException as error:
            if not is_isolable(error):
                raise
            log_if_bug(error)
            await self._send_part(send, self._failure(to_api_error(error)))

    async def _send_part(self, send: Send, part: bytes) -> None:
        await send({"type": "http.response.body", "body": part, "more_body": True})
        self._sent_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def _comments(self, send: Send) -> AsyncIterator[None]:
        """Sends comments meanwhile whenever there is nothing else to say for long."""
        self._sent_at = asyncio.get_running_loop().time()
        commenting = asyncio.create_task(self._comment(send)) if self._keep_alive else None
        try:
            yield
        finally:
            if commenting is not None:
                await _cancel(commenting)

    async def _comment(self, send: Send) -> None:
        time = asyncio.get_running_loop().time
        while True:
            pause = self._sent_at + self._keep_alive - time()
            if pause > 0:
                await asyncio.sleep(pause)
            else:
                await self._send_part(send, KEEP_ALIVE)


async def _next(events: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(events)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

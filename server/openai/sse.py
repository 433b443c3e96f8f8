"""Server-sent events as ready bytes: one JSON document per event, framed by LF only.

Raw bytes cost about a microsecond per event, event-source libraries five to fifty; and several load generators split
on LF LF, which rules CRLF out.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.openai.disconnect import unless_disconnected
from server.openai.errors import ApiError, ClientDisconnectedError, log_if_bug, to_api_error

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
WRITE_STALL_S = 30.0  # a client that takes nothing for so long holds its sequence's cache for nothing

_encoder = msgspec.json.Encoder()


def event(data: object, name: str | None = None) -> bytes:
    """One event; `name` is for APIs whose events are typed."""
    frame = b"data: " + _encoder.encode(data) + b"\n\n"
    return frame if name is None else b"event: " + name.encode() + b"\n" + frame


def failed(error: ApiError) -> bytes:
    """How a stream of OpenAI's chunks ends that can't go on: the error object, and the usual `[DONE]`."""
    return event(error.body()) + DONE


class EventStream(Response):
    """A response of events that ends the work behind it when it ends, however it ends.

    A failure after the first byte can't be an HTTP status any more: it becomes what `failure` makes of it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        *,
        failure: Callable[[ApiError], bytes] = failed,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._failure = failure

    @classmethod
    async def open(
        cls, events: AsyncGenerator[bytes, None], *, failure: Callable[[ApiError], bytes] = failed
    ) -> "EventStream":
        """Wait for the first event, so that what fails before it is still answered by a real HTTP status."""
        return cls(await anext(events), events, failure=failure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        try:
            await unless_disconnected(receive, self._send_all(send))
        except (ClientDisconnectedError, TimeoutError) as error:
            logger.debug("stream ended early: %s", type(error).__name__)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._rest):
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await _send_part(send, self._first)
            try:
                async for part in self._rest:
                    await _send_part(send, part)
            except _StalledError:
                raise
            except Exception as error:
                log_if_bug(error)
                await _send_part(send, self._failure(to_api_error(error)))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _StalledError(TimeoutError):
    """The client does not read."""


async def _send_part(send: Send, part: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_STALL_S):
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except TimeoutError:
        raise _StalledError from None

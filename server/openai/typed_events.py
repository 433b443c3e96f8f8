"""Streams of typed events, as the Responses and Messages APIs have them: `event:` lines, no `[DONE]`.

One writer makes both kinds of answer. Streamed, what it returns is sent; whole, it is run through and only what it has
gathered counts. So the two can't differ.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import Response

from server.openai.answers import respond_events
from server.openai.chat_events import ChatEvent
from server.openai.chat_run import ChatRun
from server.openai.errors import ApiError
from server.openai.sse import event

Event = dict[str, Any]
"""One event; its `type` is also its name on the wire."""


class Writer(Protocol):
    """Turns the chat events of one answer into an API's own."""

    def begin(self) -> list[Event]:
        """What comes before anything else."""
        ...

    def feed(self, event: ChatEvent) -> list[Event]:
        """What one chat event means."""
        ...

    def fail(self, error: ApiError) -> list[Event]:
        """The end of an answer that could not be finished, or not even begun."""
        ...


async def respond_typed(request: Request, run: ChatRun, writer: Writer) -> Response:
    """Answer with events. Nothing is sent before the engine's first word, so that a failure until then has its HTTP
    status."""

    def failure(error: ApiError) -> bytes:
        return _frames(writer.fail(error))

    return await respond_events(request, _typed_events(run, writer), run.taken_up, failure)


async def _typed_events(run: ChatRun, writer: Writer) -> AsyncGenerator[bytes, None]:
    begun = False
    async with aclosing(run.events()) as chat_events:
        async for chat_event in chat_events:
            opening = [] if begun else writer.begin()
            begun = True
            if part := _frames([*opening, *writer.feed(chat_event)]):
                yield part


async def run_through(run: ChatRun, writer: Writer) -> None:
    """Let `writer` gather the whole answer.

    Raises:
        UnavailableError, EngineDeadError, InvalidRequestError, ApiError: as `ChatRun.events`.
    """
    async with aclosing(run.events()) as chat_events:
        async for chat_event in chat_events:
            writer.feed(chat_event)


def _frames(events: Iterable[Event]) -> bytes:
    return b"".join([event(one, one["type"]) for one in events])

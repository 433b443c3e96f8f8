"""Sequences in flight, as seen from the API process: outputs by stream, deadlines by client request."""

import asyncio
from collections.abc import Callable
from typing import Self

from engine.messages import Request, RequestOutput


class EngineStream:
    """The outputs of one sequence, as they come. Close it, or the engine goes on computing.

    Iterating raises what ends the sequence early: `UnavailableError`, `EngineDeadError` or `RequestTimeoutError`.

    Attributes:
        started: when it was given to the engine, in seconds of the client's clock.
        prompt_tokens: length of its prompt.
        waiting: whether the scheduler has not taken it up yet.
        begun: when the scheduler took it up, by the same clock; None before, or if the engine refused it.
        finished: whether the engine knows nothing of it any more, so that no abort is needed.
    """

    def __init__(
        self, request: Request, group: "StreamGroup", started: float, forget: Callable[["EngineStream"], None]
    ) -> None:
        self.request_id = request.request_id
        self.prompt_tokens = len(request.prompt_token_ids)
        self.group = group
        self.started = started
        self.waiting = True
        self.begun: float | None = None
        self.finished = False
        self._forget: Callable[[EngineStream], None] | None = forget
        self._queue: asyncio.Queue[RequestOutput | Exception] = asyncio.Queue()

    def put(self, item: RequestOutput | Exception) -> None:
        """Append an output, or the error that ends the stream."""
        self._queue.put_nowait(item)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        item = await self._queue.get()
        if isinstance(item, Exception):
            self.finished = True
            raise item
        self.finished = item.finish_reason is not None
        return item

    def close(self) -> None:
        """End the sequence, wherever it is; a second call does nothing."""
        if self._forget is not None:
            forget, self._forget = self._forget, None
            forget(self)

    async def aclose(self) -> None:
        """The same, for `contextlib.aclosing`."""
        self.close()


class StreamGroup:
    """The sequences of one client request, which share its deadlines.

    The queue deadline holds until the first of them is taken up: from then on the answer has begun, and its other
    sequences have the same place in the queue.

    Attributes:
        failed: whether one of them ended with an error, so that the others are given up for it.
    """

    def __init__(self, taken_up: asyncio.Future[None] | None) -> None:
        """`taken_up` gets its result as soon as the queue deadline can't end the request any more."""
        self.streams: list[EngineStream] = []
        self.failed = False
        self._taken_up = taken_up
        self._queue_deadline: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def set_deadlines(
        self, queue_timeout: float, timeout: float, late: Callable[[], None], over: Callable[[], None]
    ) -> None:
        """Start the clocks, 0 seconds meaning none; the event loop's time is monotonic."""
        loop = asyncio.get_running_loop()
        if queue_timeout:
            self._queue_deadline = loop.call_later(queue_timeout, late)
        else:
            self.take_up()
        if timeout:
            self._deadline = loop.call_later(timeout, over)

    def take_up(self) -> None:
        """One of the sequences was taken up."""
        if self._queue_deadline is not None:
            self._queue_deadline.cancel()
            self._queue_deadline = None
        if self._taken_up is not None and not self._taken_up.done():
            self._taken_up.set_result(None)

    def fail(self, make_error: Callable[[], Exception]) -> list[str]:
        """End every sequence that still runs with an error of its own; returns their ids."""
        self._stop_clocks()
        running = [stream for stream in self.streams if not stream.finished]
        for stream in running:
            stream.put(make_error())
        return [stream.request_id for stream in running]

    def remove(self, stream: EngineStream) -> None:
        """A sequence was closed; after the last one no clock runs."""
        self.streams.remove(stream)
        if not self.streams:
            self._stop_clocks()

    def _stop_clocks(self) -> None:
        for timer in (self._queue_deadline, self._deadline):
            if timer is not None:
                timer.cancel()

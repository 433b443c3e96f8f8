"""Stops work for clients that have gone.

`Request.is_disconnected` only polls, so a handler that waits for the engine would not notice; racing the work against
`receive()` does, within one turn of the event loop.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from server.openai.errors import ClientDisconnectedError

T = TypeVar("T")


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves first.

    Args:
        receive: of the request, whose body has been read.

    Raises:
        ClientDisconnectedError: the client left.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnectedError
    finally:
        for task in (working, leaving):
            task.cancel()
        # Until the work has cleaned up, its engine request may still run.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

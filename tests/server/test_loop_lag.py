"""A held-up event loop shows."""

import asyncio
import time

from server.loop_lag import watch_loop_lag


def test_a_blocking_call_is_seen() -> None:
    found: list[float] = []

    async def main() -> None:
        watching = asyncio.create_task(watch_loop_lag(found.append, period=0.02))
        await asyncio.sleep(0.05)
        time.sleep(0.3)
        await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(main())
    assert max(found) > 0.2
    assert min(found) >= 0.0

"""How late the event loop is: what every client of this process waits for before anything else."""

import asyncio
import time
from collections.abc import Callable

PERIOD_S = 0.25


async def watch_loop_lag(report: Callable[[float], None], period: float = PERIOD_S) -> None:
    """Report, again and again until cancelled, by how many seconds the loop came too late to this."""
    while True:
        due = time.monotonic() + period
        await asyncio.sleep(period)
        report(max(time.monotonic() - due, 0.0))

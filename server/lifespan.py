"""Start and end of the application: the engine lives exactly as long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from server.loop_lag import watch_loop_lag
from server.state import AppState


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Begin loading the engine without waiting for it, so that probes are answered meanwhile."""
    state: AppState = app.state.loopserve
    await state.client.start()
    watching = asyncio.create_task(watch_loop_lag(state.metrics.on_loop_lag))
    try:
        yield
    finally:
        watching.cancel()
        await state.client.stop()
        await state.grammars.close()
        if state.tracer is not None:
            await state.tracer.close()

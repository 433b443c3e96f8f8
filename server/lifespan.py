"""Start and end of the application: the engine lives exactly as long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from server.state import AppState


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Begin loading the engine without waiting for it, so that probes are answered meanwhile."""
    state: AppState = app.state.loopserve
    await state.client.start()
    try:
        yield
    finally:
        await state.client.stop()
        await state.grammars.close()

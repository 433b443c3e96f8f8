"""Routes for whoever runs the server: probes, version, metrics, calibration, the map of the cache."""

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engine.kv_arithmetic import group_of
from engine.messages import BlockState, CacheSizes
from server.engine_client import EngineState
from server.exposition import exposition
from server.openai.body import check_is_json
from server.state import AppState, State
from server.version import package_version

router = APIRouter()


@router.get("/health")
async def health(state: State) -> JSONResponse:
    """Liveness: this process answers. Always 200, so that no orchestrator kills a server that still loads."""
    return JSONResponse({"status": "ok", "engine": state.client.state})


@router.get("/ready")
async def ready(state: State) -> JSONResponse:
    """Readiness: the engine is loaded and makes progress, and the server is not about to end.

    A full queue doesn't count: every replica of a busy service would leave the load balancer at once, and none be left
    to say 503 with a `Retry-After`.
    """
    status = str(state.client.state)
    if state.client.state is EngineState.READY:
        if state.client.responsive:
            return JSONResponse({"status": status})
        status = "unresponsive"
    headers = {"Retry-After": str(state.client.retry_after())}
    return JSONResponse({"status": status}, status_code=503, headers=headers)


@router.get("/version")
async def version() -> JSONResponse:
    """Version of the server."""
    return JSONResponse({"version": package_version()})


@router.get("/metrics")
async def metrics(request: Request, state: State) -> Response:
    """Prometheus metrics, in the format the scraper asks for."""
    content, content_type = exposition(state.metrics.registry, request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


@router.get("/calibrate")
async def calibration(state: State) -> JSONResponse:
    """What decode passes took with all loops in one pass and with one loop after another, when last compared."""
    return JSONResponse(_calibration(state))


@router.post("/calibrate", status_code=202)
async def calibrate(request: Request, state: State) -> JSONResponse:
    """Compare the two again, a pair of measurements after each step; the answer is the table as it still is."""
    check_is_json(request)
    state.client.calibrate()
    return JSONResponse(_calibration(state), status_code=202)


def _calibration(state: AppState) -> dict[str, object]:
    calibration = state.client.calibration
    result = calibration.result
    return {
        "running": calibration.running,
        "measured": 0 if result is None else result.measured,
        "seconds": 0.0 if result is None else result.seconds,
        "cells": [msgspec.structs.asdict(cell) for cell in calibration.cells],
    }


@router.get("/cache")
async def cache(state: State) -> JSONResponse:
    """Where the blocks of the cache are: for each cell of a map, which of the states most of its blocks are in."""
    client = state.client
    client.check_ready()
    found = await client.cache_view.get()
    assert client.info is not None
    return JSONResponse(
        {
            "block_size": client.info.block_size,
            "num_blocks": client.info.num_blocks,
            "blocks_per_cell": found.blocks_per_cell,
            "states": [_block_state(state, client.info.cache) for state in found.states],
            "cells": list(found.cells),
        }
    )


def _block_state(state: BlockState, sizes: CacheSizes | None) -> dict[str, object]:
    has_windows = sizes is None or sizes.has_windows
    group = None if state.loop is None else group_of(state.loop, has_windows)
    return {"state": state.state, "group": group, "loop": state.loop, "blocks": state.blocks}

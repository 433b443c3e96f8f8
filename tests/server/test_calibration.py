"""`/calibrate`: who may ask when, what it says, and the series made of it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest

from engine.messages import (
    Calibrate,
    Calibrated,
    CalibratedCell,
    DecodeTimes,
    EngineReady,
    EngineStats,
    StepOutputs,
)
from server.baseline_metrics import BaselineCollector
from server.calibration import PAUSE_S, CalibrationState
from server.engine_totals import totals_only, with_past
from server.error_catalogue import CALIBRATED_RECENTLY, CALIBRATION_RUNNING, NOTHING_TO_CALIBRATE
from server.errors import ConflictError
from server.state import AppState
from tests.server.live import live_server
from tests.server.played import Played

Make = Callable[..., Played]

RESULT = Calibrated(
    cells=[
        CalibratedCell(
            sequences=4, context=512, parallel_seconds=0.002, sequential_seconds=0.0031, ratio=1.5, pairs=6
        )
    ],
    measured=1,
    seconds=0.75,
)
TIMES = DecodeTimes(
    passes=10,
    parallel_seconds=1.5,
    sequential_seconds=2.5,
    shadow_passes=2,
    shadow_parallel_seconds=0.25,
    shadow_sequential_seconds=0.5,
)


def test_asking_gets_202_and_the_table_comes_when_it_is_done(played: Make) -> None:
    server = played()

    async def main(app: FastAPI, state: AppState) -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            nothing = {"running": False, "measured": 0, "seconds": 0.0, "cells": []}
            assert (await client.get("/calibrate")).json() == nothing
            begun = await client.post("/calibrate", json={})
            assert (begun.status_code, begun.json()) == (202, {**nothing, "running": True})
            assert [m for m in server.host.sent if isinstance(m, Calibrate)] == [Calibrate()]

            again = await client.post("/calibrate", json={})
            assert (again.status_code, again.json()["error"]["code"]) == (409, "calibration_running")
            assert again.headers["x-should-retry"] == "false"

            server.host.inbox.put(RESULT)
            await asyncio.sleep(0.01)
            found = (await client.get("/calibrate")).json()
            assert found == {
                "running": False,
                "measured": 1,
                "seconds": 0.75,
                "cells": [
                    {
                        "sequences": 4,
                        "context": 512,
                        "parallel_seconds": 0.002,
                        "sequential_seconds": 0.0031,
                        "ratio": 1.5,
                        "pairs": 6,
                    }
                ],
            }
            soon = await client.post("/calibrate", json={})
            assert (soon.status_code, soon.json()["error"]["code"]) == (409, "calibrated_recently")
            assert len([m for m in server.host.sent if isinstance(m, Calibrate)]) == 1
            metrics = (await client.get("/metrics")).text
            gauge = 'loopserve_calibrated_pass_seconds{context="512",execution="sequential",sequences="4"}'
            assert f"{gauge} 0.0031" in metrics
            assert 'path="/calibrate",status="202"' in metrics
            assert 'path="/calibrate",status="409"' in metrics

    server.run(main)


def test_the_result_of_the_start_comes_unasked_and_is_no_reason_to_wait(played: Make) -> None:
    server = played()

    async def main(app: FastAPI, state: AppState) -> None:
        server.host.inbox.put(RESULT)
        await asyncio.sleep(0.01)
        assert state.client.calibration.cells == RESULT.cells
        state.client.calibrate()
        assert state.client.calibration.running

    server.run(main)


def test_a_model_that_still_loads_cannot_be_calibrated(played: Make) -> None:
    response = played(ready=False).ask("/calibrate", {})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")


def test_with_one_loop_there_is_nothing_to_compare(played: Make) -> None:
    server = played()

    async def main(app: FastAPI, state: AppState) -> Any:
        info = state.client.info
        assert info is not None
        changed = {name: getattr(info, name) for name in info.__struct_fields__} | {"num_loops": 1}
        state.client.info = EngineReady(**changed)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            return await client.post("/calibrate", json={})

    response = server.run(main)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "nothing_to_calibrate")
    assert not any(isinstance(message, Calibrate) for message in server.host.sent)


def test_state_over_time() -> None:
    state = CalibrationState()
    state.begin(2, 100.0)
    with pytest.raises(ConflictError) as running:
        state.begin(2, 1e6)
    assert running.value.kind is CALIBRATION_RUNNING
    state.end(RESULT, 110.0)
    with pytest.raises(ConflictError) as soon:
        state.begin(2, 110.0 + PAUSE_S - 0.1)
    assert soon.value.kind is CALIBRATED_RECENTLY
    assert f"{PAUSE_S:.0f} s" in str(soon.value)
    state.begin(2, 110.0 + PAUSE_S)
    state.abandon()
    assert state.result == RESULT
    state.begin(2, 111.0 + PAUSE_S)
    with pytest.raises(ConflictError) as nothing:
        CalibrationState().begin(1, 0.0)
    assert nothing.value.kind is NOTHING_TO_CALIBRATE


def test_series_of_a_scrape() -> None:
    class Source:
        stats = EngineStats(decode=TIMES)
        calibration = CalibrationState()

    registry = CollectorRegistry()
    registry.register(BaselineCollector(Source()))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"loopserve_{name}", labels)

    assert value("decode_seconds_total", execution="parallel") == 1.5
    assert value("decode_seconds_total", execution="sequential") == 2.5
    assert value("decode_passes_total") == 10
    assert value("shadow_seconds_total", execution="parallel") == 0.25
    assert value("shadow_seconds_total", execution="sequential") == 0.5
    assert value("shadow_passes_total") == 2
    assert b"loopserve_calibrated_pass_seconds gauge" in generate_latest(registry)
    Source.calibration.end(RESULT, 0.0)
    at = {"sequences": "4", "context": "512"}
    assert value("calibrated_pass_seconds", execution="parallel", **at) == 0.002
    assert value("calibrated_pass_seconds", execution="sequential", **at) == 0.0031


def test_totals_survive_the_engine() -> None:
    life = EngineStats(running=1, decode=TIMES)
    past = with_past(totals_only(life), EngineStats())
    assert past.decode == TIMES
    both = with_past(EngineStats(decode=TIMES), past).decode
    assert both == DecodeTimes(
        passes=20,
        parallel_seconds=3.0,
        sequential_seconds=5.0,
        shadow_passes=4,
        shadow_parallel_seconds=0.5,
        shadow_sequential_seconds=1.0,
    )


def test_an_engine_that_dies_while_it_calibrates_can_be_asked_again(played: Make) -> None:
    server = played()

    async def main(app: FastAPI, state: AppState) -> None:
        client = state.client
        server.host.inbox.put(StepOutputs([], EngineStats(decode=TIMES)))
        server.host.inbox.put(RESULT)
        await asyncio.sleep(0.01)
        client.calibrate()
        server.host.inbox.close("killed")
        await asyncio.sleep(0.01)
        assert not client.calibration.running
        assert client.calibration.cells == RESULT.cells, "the last known, until the next engine has its own"
        assert client.stats.decode == TIMES

    server.run(main)


def test_a_real_engine_calibrates_at_its_start_and_when_asked(checkpoint: Path) -> None:
    options = ("--calibration-time", "0.2", "--shadow-steps", "3", "--max-num-seqs", "4")
    with live_server(checkpoint, *options) as server:
        url = f"{server.url}/calibrate"

        def found_when(ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            deadline = time.monotonic() + 60
            while not ready(found := httpx.get(url).json()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return found

        start = found_when(lambda found: bool(found["cells"]))
        assert all(cell["ratio"] > 0 for cell in start["cells"])
        assert httpx.post(url, json={}).status_code == 202
        body = {"prompt": "a", "max_tokens": 30, "ignore_eos": True, "temperature": 0}
        assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200
        again = found_when(lambda found: not found["running"])
        assert again["measured"] > 0
        assert again["cells"] != start["cells"]
        metrics = dict(
            line.rsplit(" ", 1)
            for line in httpx.get(f"{server.url}/metrics").text.splitlines()
            if line[0] != "#"
        )
        for execution in ("parallel", "sequential"):
            assert float(metrics[f'loopserve_decode_seconds_total{{execution="{execution}"}}']) > 0
            assert float(metrics[f'loopserve_shadow_seconds_total{{execution="{execution}"}}']) > 0
        assert float(metrics["loopserve_decode_passes_total"]) >= 25

"""`GET /cache`: one question for all who ask, a bound on waiting, and an engine that goes away meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.messages import DescribeCache
from server.cache_view import FRESH_S, CacheView
from server.errors import UnavailableError
from server.state import AppState
from tests.server.played import CACHE_MAP, Played
from tests.server.scripted_host import HostFactory
from tests.server.test_engine_client import Clock, run, settle

Make = Callable[..., Played]


class Asked:
    """A view, and what it asked."""

    def __init__(self, timeout: float = 5.0) -> None:
        self.questions: list[DescribeCache] = []
        self.clock = Clock()
        self.view = CacheView(self.questions.append, self.clock, timeout)


def test_many_readers_cost_one_question() -> None:
    async def main() -> None:
        asked = Asked()
        readers = [asyncio.create_task(asked.view.get()) for _ in range(50)]
        await asyncio.sleep(0)
        assert len(asked.questions) == 1
        readers[0].cancel()
        await asyncio.sleep(0)
        asked.view.put(CACHE_MAP)
        assert await asyncio.gather(*readers[1:]) == [CACHE_MAP] * 49
        assert await asked.view.get() is CACHE_MAP
        assert len(asked.questions) == 1
        asked.clock.now += FRESH_S + 0.01
        later = asyncio.create_task(asked.view.get())
        await asyncio.sleep(0)
        assert len(asked.questions) == 2
        asked.view.put(CACHE_MAP)
        await later

    asyncio.run(main())


def test_a_long_step_is_no_endless_wait_and_its_late_answer_does_no_harm() -> None:
    async def main() -> None:
        asked = Asked(timeout=0.01)
        for count in (1, 2):
            with pytest.raises(UnavailableError, match=r"did not answer within 0\.01 s") as caught:
                await asked.view.get()
            assert caught.value.code == "engine_busy"
            assert len(asked.questions) == count
        asked.view.put(CACHE_MAP)
        assert await asked.view.get() is CACHE_MAP
        asked.view.put(CACHE_MAP)

    asyncio.run(main())


def test_an_engine_that_ends_takes_its_map_along() -> None:
    async def main() -> None:
        asked = Asked()
        asked.view.put(CACHE_MAP)
        asked.view.lose()
        readers = [asyncio.create_task(asked.view.get()) for _ in range(3)]
        await asyncio.sleep(0)
        asked.view.lose()
        assert [type(error) for error in await asyncio.gather(*readers, return_exceptions=True)] == [
            UnavailableError
        ] * 3

    asyncio.run(main())


def test_the_client_asks_the_engine_that_lives() -> None:
    async def scenario(client: Any, hosts: HostFactory) -> None:
        waiting = asyncio.create_task(client.cache_view.get())
        await settle()
        assert hosts.last.sent == [DescribeCache()]
        hosts.last.die()
        with pytest.raises(UnavailableError):
            await waiting
        await settle()
        again = asyncio.create_task(client.cache_view.get())
        await settle()
        assert hosts.last.sent == [DescribeCache()]
        hosts.last.inbox.put(CACHE_MAP)
        assert await again is CACHE_MAP

    run(scenario)


def test_the_answer(played: Make) -> None:
    response = played().ask("/cache", method="GET")
    assert response.status_code == 200
    assert response.json() == {
        "block_size": 16,
        "num_blocks": 64,
        "blocks_per_cell": 16,
        "states": [
            {"state": "held", "group": "shared", "loop": 0, "blocks": 20},
            {"state": "held", "group": "window", "loop": 1, "blocks": 16},
            {"state": "free", "group": None, "loop": None, "blocks": 28},
        ],
        "cells": [0, 1, 2, 2],
    }


def test_without_an_engine_there_is_no_map(played: Make) -> None:
    response = played(ready=False).ask("/cache", method="GET")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert "retry-after" in response.headers


def test_only_get(played: Make) -> None:
    assert played().ask("/cache", {}).status_code == 405


def test_it_is_answered_while_requests_fill_the_queue(played: Make) -> None:
    """Who looks after a busy server must be able to look."""
    server = played(settings={"max_num_seqs": 1, "max_waiting_requests": 0})

    async def main(app: FastAPI, state: AppState) -> httpx.Response:
        state.client.admission.enter(1)
        with pytest.raises(UnavailableError):
            state.client.admit()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            return await client.get("/cache")

    assert server.run(main).status_code == 200

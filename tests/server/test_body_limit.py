"""Bodies above the limit are refused before they are read; those below arrive unchanged."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from server.body_limit import UNCOUNTED_BYTES, BodyLimitMiddleware, BodyMemory
from tests.server.asgi import Headers, Reply, call, echo

LIMIT = 10


def post(chunks: list[bytes], headers: Headers | None = None) -> Reply:
    return asyncio.run(
        call(BodyLimitMiddleware(echo, LIMIT, 30.0, BodyMemory(1 << 20)), "/", headers, chunks)
    )


@pytest.mark.parametrize("chunks", [[b""], [b"x" * LIMIT], [b"ab", b"", b"cd"], [b"x"] * LIMIT])
def test_a_body_within_the_limit_arrives_whole(chunks: list[bytes]) -> None:
    reply = post(chunks)
    assert (reply.status, reply.body) == (200, b"".join(chunks))


@pytest.mark.parametrize("length", [b"11", b"1000000000000", b"9" * 5000])
def test_an_announced_excess_is_refused_unread(length: bytes) -> None:
    reply = post([b"x"] * 100, [(b"content-length", length)])
    assert (reply.status, reply.chunks_read) == (413, 0)
    assert reply.error["code"] == "request_too_large"
    assert reply.headers["connection"] == "close"


def test_an_unannounced_excess_is_refused_when_it_shows() -> None:
    reply = post([b"xxxx"] * 1000)
    assert (reply.status, reply.chunks_read) == (413, 3)


def test_the_disconnect_still_reaches_the_application() -> None:
    seen: list[str] = []

    async def app(scope: object, receive, send) -> None:  # type: ignore[no-untyped-def]
        for _ in range(2):
            seen.append((await receive())["type"])

    asyncio.run(call(BodyLimitMiddleware(app, LIMIT, 30.0, BodyMemory(1 << 20)), chunks=[b"ab", b"cd"]))
    assert seen == ["http.request", "http.disconnect"]


def test_a_client_that_leaves_within_its_body_reaches_nothing() -> None:
    """What came by then is no request."""

    async def main() -> tuple[list[int], int]:
        statuses = []

        async def app(scope: object, receive: object, send: object) -> None:
            raise AssertionError("reached")

        async def receive() -> Message:
            return messages.pop(0)

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        messages: list[Message] = [
            {"type": "http.request", "body": b"x" * 5, "more_body": True},
            {"type": "http.disconnect"},
        ]
        memory = BodyMemory(100)
        guarded = BodyLimitMiddleware(app, LIMIT, 30.0, memory)
        await guarded({"type": "http", "method": "POST", "headers": []}, receive, send)
        return statuses, memory.held

    assert asyncio.run(main()) == ([499], 0)


class Slow:
    """Bodies in two pieces whose second comes when it may."""

    def __init__(self, memory: BodyMemory, limit: int = 1 << 20) -> None:
        self.go = asyncio.Event()
        self.app = BodyLimitMiddleware(echo, limit, 30.0, memory)

    async def post(self, first: int, second: int = 0) -> tuple[int, dict[str, str]]:
        pieces = [b"a" * first, b"b" * second]
        start: Message = {}

        async def receive() -> Message:
            if len(pieces) == 1:
                await self.go.wait()
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)

        await self.app({"type": "http", "method": "POST", "headers": []}, receive, send)
        return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


def test_all_bodies_together_have_a_bound() -> None:
    """Above what is not counted of each, so that ordinary requests get through meanwhile."""

    async def main() -> None:
        memory = BodyMemory(100_000)
        slow = Slow(memory)
        held = [asyncio.create_task(slow.post(UNCOUNTED_BYTES + 50_000)) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert memory.held == 100_000
        slow.go.set()
        status, headers = await slow.post(UNCOUNTED_BYTES + 1)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert (await slow.post(UNCOUNTED_BYTES))[0] == 200
        assert [(await task)[0] for task in held] == [200, 200]
        assert memory.held == 0
        assert (await slow.post(UNCOUNTED_BYTES + 1))[0] == 200

    asyncio.run(main())


def test_the_memory_of_a_body_comes_back_however_it_ends() -> None:
    async def main() -> None:
        memory = BodyMemory(100_000)
        slow = Slow(memory, limit=60_000)
        assert memory.held == 0
        leaving = asyncio.create_task(slow.post(50_000, 1))
        await asyncio.sleep(0.01)
        assert memory.held > 0
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert memory.held == 0
        slow.go.set()
        assert (await slow.post(50_000, 20_000))[0] == 413
        assert memory.held == 0

    asyncio.run(main())


@given(st.lists(st.integers(0, 60_000), max_size=8))
def test_what_is_counted_is_what_exceeds_the_free_part(sizes: list[int]) -> None:
    memory = BodyMemory(10**9)

    async def look(scope: object, receive, send) -> None:  # type: ignore[no-untyped-def]
        assert memory.held == max(0, sum(sizes) - UNCOUNTED_BYTES)
        await echo(scope, receive, send)  # type: ignore[arg-type]

    guarded = BodyLimitMiddleware(look, 10**9, 30.0, memory)
    reply = asyncio.run(call(guarded, chunks=[b"x" * size for size in sizes] or None))
    assert (reply.status, len(reply.body), memory.held) == (200, sum(sizes), 0)

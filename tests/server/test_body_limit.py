"""Bodies above the limit are refused before they are read; those below arrive unchanged."""

import asyncio

import pytest

from server.body_limit import BodyLimitMiddleware, BodyMemory
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

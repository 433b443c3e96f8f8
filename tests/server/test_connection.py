"""Connections over real sockets: deadlines, bounds, and what no client should get away with."""

import asyncio
import contextlib
import inspect
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from server import connection
from server.body_limit import BodyLimitMiddleware, BodyMemory
from server.connection import Connection
from server.openai.sse import EventStream
from tests.server.asgi import echo
from tests.server.raw_http import GET, HEAD, Raw, Serving, limits, serving

CLOSE = b"Connection: close\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


def test_the_internals_used_of_uvicorn_and_h11_are_as_they_were() -> None:
    """A newer version that fails here may make `server.connection` do nothing, without any other sign."""
    for name in (
        "connection_made connection_lost data_received handle_events send_400_response on_response_complete",
        "pause_writing resume_writing shutdown _should_upgrade _unset_keepalive_if_required",
        "timeout_keep_alive_handler",
    ):
        for method in name.split():
            assert callable(getattr(H11Protocol, method)), method
    assert list(inspect.signature(H11Protocol.__init__).parameters)[1:] == [
        *("config", "server_state", "app_state", "_loop")
    ]
    source = inspect.getsource(H11Protocol)
    assert "except h11.RemoteProtocolError:" in source
    assert "self.timeout_keep_alive_task = self.loop.call_later(" in source
    assert "transport=self.transport" in source
    assert "conn=self.conn" in source
    cycle = inspect.getsource(RequestResponseCycle)
    for name in ("disconnected", "message_event", "response_started", "response_complete"):
        assert f"self.{name} = " in cycle, name
    assert {"pause_reading", "resume_reading", "pause_writing", "resume_writing", "drain"} <= set(
        dir(FlowControl)
    )
    used = inspect.getsource(H11Protocol) + cycle + inspect.getsource(FlowControl)
    ours = set(dir(connection.PoliteTransport))
    for name in ("write", "close", "is_closing", "pause_reading", "resume_reading", "get_extra_info"):
        assert f"transport.{name}(" in used or name == "get_extra_info", name
        assert name in ours
    conn = h11.Connection(h11.SERVER)
    assert type(conn._receive_buffer).__mro__[-2].__name__ == "ReceiveBuffer"
    assert "maybe_extract_lines()" in inspect.getsource(h11._readers)


def run(
    work: Callable[[Serving], Awaitable[Any]],
    app: Any = hello,
    keep_alive: float = 5,
    **given: Any,
) -> Any:
    """Do something with a server, which must have forgotten everything afterwards."""

    async def main() -> Any:
        async with serving(app, limits(**given), keep_alive) as server:
            result = await work(server)
            await server.gone()
            return result

    return asyncio.run(main())


def sent(*pieces: bytes, app: Any = hello, pause: float = 0.0, **given: Any) -> Raw:
    reply = run(lambda server: server.send(*pieces, pause=pause), app, **given)
    assert isinstance(reply, Raw)
    return reply


def timed(work: Callable[[], Raw]) -> tuple[Raw, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


# --- requests that are well


def test_an_ordinary_request() -> None:
    reply = sent(HEAD + CLOSE + b"\r\n")
    assert (reply.status, reply.reset) == (200, False)
    assert reply.data.endswith(b"hello")


def test_requests_in_pieces_and_one_after_another_keep_their_connection() -> None:
    reply = sent(*(GET[i : i + 1] for i in range(len(GET))), GET, HEAD + CLOSE + b"\r\n")
    assert reply.statuses == [200, 200, 200]


def test_a_thousand_pipelined_requests_are_answered_in_order() -> None:
    async def number(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(scope["path"] + ";")(scope, receive, send)

    requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(999)]
    reply = sent(
        b"".join(requests) + b"GET /999 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", app=number
    )
    assert reply.statuses == [200] * 1000
    bodies = [part.partition(b"\r\n\r\n")[2] for part in reply.data.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"/%d;" % i for i in range(1000)]


def test_an_upgrade_is_ignored_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        reply = sent(
            HEAD + b"Upgrade: websocket\r\nConnection: upgrade, close\r\n\r\n" + GET[:0], keep_alive=0.1
        )
    assert reply.status == 200
    assert "pgrade" not in caplog.text


# --- headers


def test_the_time_for_headers_begins_with_the_connection() -> None:
    reply, seconds = timed(lambda: sent(HEAD, header_timeout=0.3))
    assert reply.status == 408
    assert reply.error["code"] == "request_timeout"
    assert reply.headers["connection"] == "close"
    assert 0.25 < seconds < 2


def test_a_client_that_says_nothing_is_closed_without_an_answer() -> None:
    reply, seconds = timed(lambda: sent(header_timeout=0.3))
    assert reply.data == b""
    assert 0.25 < seconds < 2


def test_a_byte_now_and_then_does_not_extend_the_time() -> None:
    reply, seconds = timed(lambda: sent(*[b"G"] * 40, pause=0.05, header_timeout=0.4))
    assert reply.status == 408
    assert seconds < 2.5


def test_the_time_for_a_further_requests_headers_begins_with_its_first_byte() -> None:
    async def work(server: Serving) -> tuple[Raw, float]:
        started = time.monotonic()
        return await server.send(GET, HEAD, pause=0.5), time.monotonic() - started

    reply, seconds = run(work, header_timeout=0.7)
    assert reply.statuses == [200, 408]
    assert 1.1 < seconds < 3


def test_an_idle_connection_has_its_own_time() -> None:
    reply, seconds = timed(lambda: sent(GET, keep_alive=0.4, header_timeout=0.1))
    assert reply.statuses == [200]
    assert 0.35 < seconds < 2


@pytest.mark.parametrize(("count", "status"), [(98, 200), (99, 200), (100, 431), (20_000, 431)])
def test_number_of_headers(count: int, status: int) -> None:
    # Host makes one more
    reply = sent(HEAD + b"a: b\r\n" * count + b"\r\n", header_bytes=1 << 20, keep_alive=0.1)
    assert reply.status == status
    if status != 200:
        assert reply.error["code"] == "headers_too_large"


@pytest.mark.parametrize(("size", "status"), [(900, 200), (1_100, 431), (65_536, 431), (1 << 20, 431)])
@pytest.mark.parametrize("pieces", [1, 3])
def test_size_of_headers(size: int, status: int, pieces: int) -> None:
    """Whether they come in one piece or not: h11 itself looks only at what is incomplete."""
    data = HEAD + b"a: " + b"x" * size + b"\r\n\r\n"
    step = len(data) // pieces + 1
    parts = [data[i : i + step] for i in range(0, len(data), step)]
    reply = sent(*parts, header_bytes=1024, keep_alive=0.1, pause=0.02)
    assert (reply.status, reply.reset) == (status, False)


@pytest.mark.parametrize(("size", "status"), [(900, 200), (1_100, 414), (1 << 20, 414)])
@pytest.mark.parametrize("pieces", [1, 3])
def test_length_of_the_address(size: int, status: int, pieces: int) -> None:
    data = b"GET /" + b"x" * size + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    step = len(data) // pieces + 1
    parts = [data[i : i + step] for i in range(0, len(data), step)]
    reply = sent(*parts, header_bytes=1024, keep_alive=0.1, pause=0.02)
    assert reply.status == status
    if status != 200:
        assert reply.error["code"] == "address_too_long"


# --- what is no HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /x\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /x HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 500,
        b"\x00" * 1000,
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: +3\r\n\r\nabc",
        POST + b"Content-Length: 3x\r\n\r\nabc",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"a: b\r\n c\r\n\r\n",
        HEAD + b"a: b\r\n\tc\r\n\r\n",
        HEAD + b" a: b\r\n\r\n",
        HEAD + b"a: b\x00c\r\n\r\n",
        HEAD + b"a: b\rc\r\n\r\n",
        HEAD + b"a\x00: b\r\n\r\n",
        HEAD + b"a b: c\r\n\r\n",
        HEAD + b"a : c\r\n\r\n",
        HEAD + b": c\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        "GET /ü HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_no_acceptable_http_is_told_so(data: bytes) -> None:
    reply = sent(data, header_timeout=5)
    assert (reply.status, reply.reset) == (400, False)
    assert reply.error["code"] == "malformed_http"
    assert reply.error["type"] == "invalid_request_error"


def test_a_megabyte_of_noise() -> None:
    reply = sent(b"\xff" + os.urandom(1 << 20), header_timeout=1)
    assert reply.status in (400, 408, 414, 431)
    assert not reply.reset


def test_noise_after_a_good_request_does_not_spoil_its_answer() -> None:
    reply = sent(GET + b"\x00\x01\x02 no http")
    assert reply.statuses == [200, 400]


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"-1\r\n\r\n", b"3\r\nabcdef\r\n"])
def test_a_malformed_chunk_ends_the_request_for_its_handler_too(chunks: bytes) -> None:
    seen: list[str] = []

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])

    reply = sent(POST + b"Transfer-Encoding: chunked\r\n\r\n", chunks, app=watching, pause=0.05)
    assert reply.status == 400
    assert seen[-1] == "http.disconnect"


def test_nothing_more_is_sent_after_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """The handler that would say "100 Continue" only begins after it."""
    with caplog.at_level(logging.ERROR):
        head = POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        reply = sent(head + b"zz\r\n", app=limited())
    assert reply.statuses == [400]
    assert caplog.text == ""


@pytest.mark.parametrize(("chunks", "status"), [(4096, 200), (4097, 400), (43_000, 400)])
def test_a_body_in_crumbs_is_not_read_to_the_end(chunks: int, status: int) -> None:
    body = b"1\r\nx\r\n" * chunks + b"0\r\n\r\n"
    reply, seconds = timed(
        lambda: sent(POST + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + body, app=echo)
    )
    assert (reply.status, reply.reset) == (status, False)
    assert seconds < 2


# --- bodies


def limited(limit: int = 1000, seconds: float = 30.0, memory: int = 1 << 20) -> BodyLimitMiddleware:
    return BodyLimitMiddleware(echo, limit, seconds, BodyMemory(memory))


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_body_that_does_not_come_is_408(expect: bytes) -> None:
    head = POST + expect + b"Content-Length: 10\r\n\r\n"
    reply, seconds = timed(lambda: sent(head, app=limited(seconds=0.3)))
    rest = reply.data.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert bool(expect) == (rest != reply.data)
    assert Raw(rest).error["code"] == "request_timeout"
    assert seconds < 2


def test_a_trickled_body_is_408() -> None:
    head = POST + b"Content-Length: 1000\r\n\r\n"
    reply = sent(head, *[b"x"] * 40, pause=0.05, app=limited(seconds=0.4))
    assert reply.status == 408


@pytest.mark.parametrize("close", [b"", CLOSE])
@pytest.mark.parametrize(
    "head", [b"Content-Length: 8388608\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n800000\r\n"]
)
def test_a_client_that_sends_all_of_a_large_body_still_sees_the_413(head: bytes, close: bytes) -> None:
    for _ in range(5):
        reply = sent(POST + close + head, b"x" * (8 << 20), app=limited())
        assert (reply.status, reply.reset) == (413, False)
        assert reply.error["code"] == "request_too_large"


def test_a_413_is_told_before_the_body_is_sent() -> None:
    reply = sent(POST + b"Expect: 100-continue\r\nContent-Length: 1000000000000\r\n\r\n", app=limited())
    assert reply.status == 413


def test_a_client_that_goes_on_sending_after_its_413_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "POLITE_CLOSE_S", 0.3)
    head = POST + b"Content-Length: 1000000000000\r\n\r\n"
    reply, seconds = timed(lambda: sent(head, *[b"x"] * 100, pause=0.05, app=limited()))
    assert reply.status == 413
    assert seconds < 3


def test_no_more_is_read_after_a_413_than_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "POLITE_CLOSE_BYTES", 1 << 20)

    async def work(server: Serving) -> int:
        _, writer = await server.connect()
        writer.write(POST + b"Content-Length: 1000000000000\r\n\r\n")
        taken = 0
        with contextlib.suppress(ConnectionError):
            while taken < 64:
                writer.write(b"x" * (1 << 20))
                await writer.drain()
                taken += 1
        writer.transport.abort()
        return taken

    assert run(work, limited()) < 64


async def unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading the body, as a refusal of a key does."""
    await PlainTextResponse("no", 401)(scope, receive, send)


def test_after_an_early_answer_the_connection_goes_on_if_the_body_comes_soon() -> None:
    head = POST + b"Content-Length: 300000\r\n\r\n"
    reply = sent(head, b"x" * 300_000, HEAD + CLOSE + b"\r\n", pause=0.05, app=unread)
    assert reply.statuses == [401, 401]


def test_after_an_early_answer_the_body_may_not_trickle_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "POLITE_CLOSE_S", 0.3)
    head = POST + b"Content-Length: 1000\r\n\r\n"
    reply, seconds = timed(lambda: sent(head, *[b"x"] * 100, pause=0.05, app=unread))
    assert reply.statuses == [401]
    assert seconds < 7


def test_after_an_early_answer_and_its_body_a_silent_client_is_closed() -> None:
    """uvicorn itself forgets the idle time there."""
    head = POST + b"Content-Length: 300000\r\n\r\n"
    reply, seconds = timed(
        lambda: sent(head, b"x" * 300_000, pause=0.05, app=unread, header_timeout=0.4, keep_alive=0.4)
    )
    assert reply.statuses == [401]
    assert seconds < 3


# --- clients that do not read


class Events:
    """A stream of events, how many were made, and whether its source was closed."""

    def __init__(self, size: int, pause: float = 0.0) -> None:
        self.made = 0
        self.closed = False
        self._part = b"data: " + b"x" * size + b"\n\n"
        self._pause = pause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await EventStream.open(self._events(), keep_alive=0.1))(scope, receive, send)

    async def _events(self) -> Any:
        try:
            while True:
                self.made += 1
                yield self._part
                await asyncio.sleep(self._pause)
        finally:
            self.closed = True


def test_ends_below_the_application_are_counted_by_reason() -> None:
    async def work(server: Serving) -> list[str]:
        await server.send(HEAD)  # and no more
        await server.send(b"nonsense\r\n\r\n")
        await server.send(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        await server.send(GET, b"", pause=0.01)
        held = [await server.connect() for _ in range(8)]
        await asyncio.sleep(0.05)
        await server.send(GET)
        for _, writer in held:
            writer.transport.abort()
        return [str(end) for end in server.ends]

    found = run(work, header_timeout=0.3, connections=8, keep_alive=0.1)
    assert found == ["headers_late", "malformed", "too_large", "connections"], "a good request counts nothing"


def test_a_client_that_does_not_read_is_counted() -> None:
    events = Events(size=1000)

    async def work(server: Serving) -> list[str]:
        _, writer = await server.connect(receive_buffer=4096)
        writer.write(GET)
        async with asyncio.timeout(10):
            while not events.closed:
                await asyncio.sleep(0.01)
        writer.transport.abort()
        return [str(end) for end in server.ends]

    assert run(work, events, write_timeout=0.5) == ["not_reading"]


def test_a_stream_whose_client_does_not_read_is_ended() -> None:
    events = Events(size=1000)

    async def work(server: Serving) -> float:
        _, writer = await server.connect(receive_buffer=4096)
        writer.write(GET)
        started = time.monotonic()
        async with asyncio.timeout(10):
            while not events.closed:
                await asyncio.sleep(0.01)
        writer.transport.abort()
        return time.monotonic() - started

    seconds = run(work, events, write_timeout=0.5)
    assert seconds < 5
    assert events.made * 1000 < 32 << 20, "what the kernel takes, and no more"


def test_a_stream_whose_client_reads_slowly_goes_on() -> None:
    events = Events(size=1000)

    async def work(server: Serving) -> None:
        reader, writer = await server.connect(receive_buffer=4096)
        reader._limit = 1  # type: ignore[attr-defined]
        writer.write(GET)
        for _ in range(10):
            await asyncio.sleep(0.15)
            await reader.read(1 << 20)
            assert not events.closed
        writer.transport.abort()

    run(work, events, write_timeout=0.5)
    assert events.closed


@pytest.mark.parametrize("head", [GET, HEAD + CLOSE + b"\r\n"])
@pytest.mark.parametrize("size", [8 << 20, 32 << 20])
def test_a_whole_answer_that_nobody_takes_is_given_up(head: bytes, size: int) -> None:
    """Also after its idle time, when uvicorn closes what is not sent yet and forgets it."""

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("x" * size)(scope, receive, send)

    async def work(server: Serving) -> float:
        _, writer = await server.connect(receive_buffer=4096)
        writer.write(head)
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await server.gone()
        writer.transport.abort()
        return time.monotonic() - started

    assert run(work, large, keep_alive=0.2, write_timeout=0.6) < 4


def test_many_answers_that_nobody_takes_are_given_up() -> None:
    """Each fits into a buffer; the last of them is smaller than what makes asyncio pause."""

    async def medium(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("x" * 50_000)(scope, receive, send)

    async def work(server: Serving) -> None:
        _, writer = await server.connect(receive_buffer=4096)
        writer.write(GET * 1000)
        await asyncio.sleep(0.2)
        await server.gone()
        writer.transport.abort()

    run(work, medium, keep_alive=0.2, write_timeout=0.5)


def test_a_large_answer_arrives_whole() -> None:
    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("x" * (16 << 20))(scope, receive, send)

    reply = sent(HEAD + CLOSE + b"\r\n", app=large, write_timeout=0.5)
    assert len(reply.data.partition(b"\r\n\r\n")[2]) == 16 << 20


# --- number of connections


def test_beyond_the_limit_only_probes_are_answered() -> None:
    async def work(server: Serving) -> None:
        held = [await server.connect() for _ in range(8)]
        await asyncio.sleep(0.05)
        probe = await server.send(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert probe.status == 200
        refused = await server.send(GET)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.error["code"] == "unavailable"
        await asyncio.sleep(0.05)
        extra = await server.connect()
        await asyncio.sleep(0.05)
        assert (await server.send(GET)).data == b"", "no room for a word"
        extra[1].transport.abort()
        held.pop()[1].transport.abort()
        await asyncio.sleep(0.05)
        assert (await server.send(HEAD + CLOSE + b"\r\n")).status == 200
        for _, writer in held:
            writer.transport.abort()

    run(work, connections=8)


def test_who_keeps_a_probes_connection_loses_it_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PROBE_S", 0.2)

    async def work(server: Serving) -> None:
        held = [await server.connect() for _ in range(8)]
        await asyncio.sleep(0.05)
        started = time.monotonic()
        assert (await server.send()).data == b""
        assert time.monotonic() - started < 2
        for _, writer in held:
            writer.transport.abort()

    run(work, connections=8)


def test_a_server_that_stops_does_not_wait_for_those_who_have_their_answer() -> None:
    async def work(server: Serving) -> None:
        reader, writer = await server.connect()
        writer.write(b"\x00\x00")
        assert b"400" in await reader.readline()
        for one in list(server.state.connections):
            assert isinstance(one, Connection)
            one.shutdown()
        await server.gone()
        writer.transport.abort()

    run(work)

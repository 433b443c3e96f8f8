"""What an exchange says about answers of every kind, whole and not."""

import asyncio
import socket

import pytest

from tests.tools.reliability.scripted import HANG, HEAD, chunk, plain, serving
from tools.reliability.wire import Call, Exchange, Failure, exchange


def _exchange(parts: list[bytes], call: Call | None = None, timeout: float = 5.0) -> Exchange:
    async def run() -> Exchange:
        async with serving(parts) as port:
            return await exchange(port, call or Call("GET", "/"), timeout)

    return asyncio.run(run())


def test_a_whole_answer() -> None:
    done = _exchange([plain("503 Service Unavailable", b"later", b"Retry-After: 7")])
    assert (done.status, done.body, done.failure) == (503, b"later", None)
    assert done.headers["retry-after"] == "7"
    assert done.sent < done.parts[0][0] <= done.ended


def test_a_stream_keeps_its_parts_and_their_times() -> None:
    done = _exchange([HEAD, chunk(b"one"), chunk(b"two"), b"0\r\n\r\n"])
    assert [data for _, data in done.parts] == [b"one", b"two"]
    assert done.parts[1][0] - done.parts[0][0] > 0.01
    assert done.failure is None


@pytest.mark.parametrize(
    ("parts", "failure"),
    [
        ([HEAD, chunk(b"one")], Failure.CUT),
        ([HEAD, chunk(b"one")[:-3]], Failure.CUT),
        ([HEAD, chunk(b"one"), b"0\r\n"], Failure.CUT),
        ([plain("200 OK", b"long")[:-1]], Failure.CUT),
        ([b""], Failure.RESET),
        ([HEAD[:30]], Failure.RESET),
        ([b"SSH-2.0\r\n\r\n"], Failure.MALFORMED),
        ([HEAD, b"not a size\r\n"], Failure.MALFORMED),
        ([HEAD, chunk(b"one"), HANG], Failure.TIMEOUT),
        ([HANG], Failure.TIMEOUT),
    ],
)
def test_answers_that_are_not_whole(parts: list[bytes], failure: Failure) -> None:
    assert _exchange(parts, timeout=0.3).failure is failure


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = asyncio.run(exchange(port, Call("GET", "/"), 5.0))
    assert (done.failure, done.status) == (Failure.UNREACHABLE, 0)


def test_a_client_that_has_had_enough_goes() -> None:
    call = Call("POST", "/", {"a": 1}, leave_after=1)
    done = _exchange([HEAD, chunk(b"one"), chunk(b"two"), HANG], call)
    assert ([data for _, data in done.parts], done.failure) == ([b"one"], None)


def test_what_is_sent() -> None:
    sent = Call("POST", "/v1/x", {"a": 1}, key="k").encode()
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert b"Authorization: Bearer k" in head
    assert body == b'{"a": 1}'
    assert Call("POST", "/", b"{raw").encode().endswith(b"\r\n\r\n{raw")

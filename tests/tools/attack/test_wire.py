"""The raw client: it tells apart what a server did with a connection."""

import asyncio

import pytest

from tests.tools.attack.scripted import response, scripted
from tools.attack.wire import Exchange, Manners, Outcome, Piece, exchange


def ask(answer: bytes, manners: Manners | None = None, *, silent: bool = False) -> Exchange:
    async def run() -> Exchange:
        async with scripted(answer, silent=silent) as target:
            return await exchange(target.host, target.port, [Piece(b"x")], manners or Manners(deadline=5))

    return asyncio.run(run())


def test_bodies_by_length_by_chunks_and_by_the_end_of_the_connection() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    for answer, body in (
        (response(200, b"abc"), b"abc"),
        (chunked, b"abcde"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + response(200, b"a"), b"a"),
    ):
        done = ask(answer)
        assert done.answers[0].body == body
        assert done.answers[0].complete


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", response(200, b"abc")[:-1]])
def test_what_ends_too_early_is_closed(answer: bytes) -> None:
    done = ask(answer)
    assert done.outcome is Outcome.CLOSED
    assert not any(one.complete for one in done.answers)


def test_no_answer_by_the_deadline_is_silence() -> None:
    assert ask(b"", Manners(deadline=0.2), silent=True).outcome is Outcome.SILENT


def test_nobody_there() -> None:
    assert asyncio.run(exchange("127.0.0.1", 9, [Piece(b"x")], Manners())).outcome is Outcome.UNREACHABLE


def test_several_answers_on_one_connection() -> None:
    done = ask(response(200, b"a") * 3, Manners(answers=3, deadline=5))
    assert (done.outcome, len(done.answers)) == (Outcome.ANSWERED, 3)

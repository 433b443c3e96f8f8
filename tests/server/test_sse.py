"""Event streams end the work behind them, however they end."""

import asyncio
import json
from collections.abc import AsyncGenerator

import msgspec
import pytest
from starlette.types import Message

from engine.errors import EngineDeadError
from server.openai.disconnect import unless_disconnected
from server.openai.errors import ApiError, ClientDisconnectedError
from server.openai.sse import DONE, KEEP_ALIVE, EventStream, event


class Work:
    """Events that wait to be let through, and whether their source was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.closed = False
        self.go = asyncio.Event()
        self._error = error

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            yield event({"n": 1})
            await self.go.wait()
            if self._error is not None:
                raise self._error
            yield event({"n": 2})
            yield DONE
        finally:
            self.closed = True


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def sent_by(stream: EventStream) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await stream({"type": "http"}, never, send)
    return sent


def test_events_are_framed_by_lf_and_not_buffered() -> None:
    async def main() -> list[Message]:
        work = Work()
        work.go.set()
        sent = await sent_by(await EventStream.open(work.events()))
        assert work.closed
        return sent

    start, *parts, end = asyncio.run(main())
    headers = dict(start["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"content-length" not in headers
    assert [part["body"] for part in parts] == [b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', DONE]
    assert end == {"type": "http.response.body", "body": b"", "more_body": False}


def test_a_failure_before_the_first_event_is_raised() -> None:
    async def fails() -> AsyncGenerator[bytes, None]:
        raise EngineDeadError("gone")
        yield b""

    async def main() -> None:
        with pytest.raises(EngineDeadError):
            await EventStream.open(fails())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "code"), [(EngineDeadError("gone"), "engine_dead"), (KeyError("secret"), "internal_error")]
)
def test_a_late_failure_is_an_event(error: Exception, code: str) -> None:
    async def main() -> list[Message]:
        work = Work(error)
        work.go.set()
        sent = await sent_by(await EventStream.open(work.events()))
        assert work.closed
        return sent

    body = asyncio.run(main())[-2]["body"]
    told, done, rest = body.split(b"\n\n")
    assert (done + b"\n\n", rest) == (DONE, b"")
    assert json.loads(told.removeprefix(b"data: "))["error"]["code"] == code
    assert b"secret" not in body


def test_a_client_that_leaves_closes_the_source() -> None:
    async def main() -> None:
        work = Work()
        stream = await EventStream.open(work.events())

        async def leave() -> Message:
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            pass

        async with asyncio.timeout(2):
            await stream({"type": "http"}, leave, send)
        assert work.closed

    asyncio.run(main())


def test_no_more_than_one_comment_waits_for_a_client_that_does_not_read() -> None:
    """Cutting that client off is the connection's business (test_connection.py)."""

    async def main() -> int:
        work = Work()
        stream = await EventStream.open(work.events(), keep_alive=0.02)
        waiting = 0

        async def stuck(message: Message) -> None:
            nonlocal waiting
            if message["type"] == "http.response.body":
                waiting += 1
                await asyncio.Event().wait()

        async def leave() -> Message:
            await asyncio.sleep(0.2)
            return {"type": "http.disconnect"}

        async with asyncio.timeout(2):
            await stream({"type": "http"}, leave, stuck)
        assert work.closed
        return waiting

    assert asyncio.run(main()) == 2


def test_comments_while_nothing_comes() -> None:
    async def main() -> list[Message]:
        work = Work()
        stream = await EventStream.open(work.events(), keep_alive=0.05)
        asyncio.get_running_loop().call_later(0.18, work.go.set)
        return await sent_by(stream)

    _, first, *rest, second, done, _ = asyncio.run(main())
    assert (first["body"], second["body"], done["body"]) == (event({"n": 1}), event({"n": 2}), DONE)
    assert {part["body"] for part in rest} == {KEEP_ALIVE}
    assert 1 <= len(rest) <= 3


def test_no_comment_between_events_that_come() -> None:
    async def steady() -> AsyncGenerator[bytes, None]:
        for index in range(8):
            await asyncio.sleep(0.02)
            yield event({"n": index})

    async def main() -> list[Message]:
        return await sent_by(await EventStream.open(steady(), keep_alive=0.1))

    assert all(message.get("body") != KEEP_ALIVE for message in asyncio.run(main()))


def test_a_first_event_that_is_late_costs_the_status_not_the_answer() -> None:
    async def late() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.12)
        yield event({"n": 1})
        yield DONE

    async def main() -> list[Message]:
        return await sent_by(await EventStream.open(late(), keep_alive=0.05))

    start, comment, *rest = asyncio.run(main())
    assert start["status"] == 200
    assert comment["body"] == KEEP_ALIVE
    assert [part["body"] for part in rest if part["body"] != KEEP_ALIVE] == [event({"n": 1}), DONE, b""]


def test_a_failure_after_a_comment_is_an_event() -> None:
    async def fails() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.12)
        raise EngineDeadError("gone")
        yield b""

    async def main() -> list[Message]:
        def failure(error: ApiError) -> bytes:
            return event(error.body()) + b": end\n\n"

        return await sent_by(await EventStream.open(fails(), keep_alive=0.05, failure=failure))

    *_, last, end = asyncio.run(main())
    told, rest = last["body"].split(b"\n\n", 1)
    assert json.loads(told.removeprefix(b"data: "))["error"]["code"] == "engine_dead"
    assert (rest, end["more_body"]) == (b": end\n\n", False)


@pytest.mark.parametrize("opened", [False, True])
def test_a_client_that_leaves_before_the_first_event_ends_the_work(opened: bool) -> None:
    """While the answer is opened, and after a comment was sent instead of it."""
    closed = []

    async def slow() -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            closed.append(True)

    async def leave() -> Message:
        await asyncio.sleep(0.03)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    async def main() -> None:
        async with asyncio.timeout(2):
            if opened:
                stream = await EventStream.open(slow(), keep_alive=0.01)
                await stream({"type": "http"}, leave, send)
            else:
                with pytest.raises(ClientDisconnectedError):
                    await unless_disconnected(leave, EventStream.open(slow(), keep_alive=5))
        assert closed == [True]
        assert len(asyncio.all_tasks()) == 1, "nothing is left behind"

    asyncio.run(main())


def test_events_hold_any_struct() -> None:
    class Body(msgspec.Struct):
        text: str

    assert event(Body("é\n")) == 'data: {"text":"é\\n"}\n\n'.encode()

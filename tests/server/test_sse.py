"""Event streams end the work behind them, however they end."""

import asyncio
import json
from collections.abc import AsyncGenerator

import msgspec
import pytest
from starlette.types import Message

from engine.errors import EngineDeadError
from server.openai import sse
from server.openai.sse import DONE, EventStream, event


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


def test_a_client_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WRITE_STALL_S", 0.02)

    async def main() -> None:
        work = Work()
        stream = await EventStream.open(work.events())

        async def stuck(message: Message) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        async with asyncio.timeout(2):
            await stream({"type": "http"}, never, stuck)
        assert work.closed

    asyncio.run(main())


def test_events_hold_any_struct() -> None:
    class Body(msgspec.Struct):
        text: str

    assert event(Body("é\n")) == 'data: {"text":"é\\n"}\n\n'.encode()

"""An application called through the relay sees what it would see behind a socket."""

import asyncio
import pickle

import pytest
from starlette.types import Message, Receive, Scope, Send

from server import relay as relay_module
from server.relay import RelayedRequest, relay
from tests.server.asgi import echo

REQUEST = RelayedRequest("POST", "/x/y", b"/x%2Fy", b"q=1", [(b"a", b"b")], b"body", ("127.0.0.1", 3))


async def messages_of(app, request: RelayedRequest = REQUEST) -> list[Message]:  # type: ignore[no-untyped-def]
    return [message async for message in relay(app, request)]


def test_the_answer_comes_through() -> None:
    start, body = asyncio.run(messages_of(echo))
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert (body["type"], body["body"]) == ("http.response.body", b"body")


def test_the_request_survives_being_pickled_and_made_from_its_own_scope() -> None:
    again = pickle.loads(pickle.dumps(REQUEST))
    assert RelayedRequest.of(again.scope(), again.body) == REQUEST


def test_messages_come_as_they_are_sent() -> None:
    """The application waits for each part to be taken; a relay that collects first would wait for ever."""

    async def run() -> None:
        taken = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for number in range(3):
                await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
                await taken.wait()
                taken.clear()

        seen = []
        async for message in relay(app, REQUEST):
            seen.append(message["body"])
            taken.set()
        assert seen == [b"0", b"1", b"2"]

    asyncio.run(asyncio.wait_for(run(), 5))


async def left(how: str) -> list[str]:
    """What an endless application saw of a client that goes away after the first part."""
    seen: list[str] = []
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            seen.append((await receive())["type"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            seen.append((await receive())["type"])
        finally:
            done.set()

    messages = relay(app, REQUEST)
    await anext(messages)
    if how == "closed":
        await messages.aclose()
    else:
        waiting = asyncio.create_task(anext(messages))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(done.wait(), 2)
    return seen


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_a_client_that_leaves_is_a_disconnect(how: str) -> None:
    assert asyncio.run(left(how)) == ["http.request", "http.disconnect"]


def test_an_application_that_does_not_notice_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "END_GRACE_S", 0.05)

    async def run() -> bool:
        cancelled = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        messages = relay(app, REQUEST)
        await anext(messages)
        await messages.aclose()
        return cancelled.is_set()

    assert asyncio.run(asyncio.wait_for(run(), 5))


def test_an_exception_of_the_application_is_the_callers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("of the application")

    with pytest.raises(ValueError, match="of the application"):
        asyncio.run(messages_of(app))

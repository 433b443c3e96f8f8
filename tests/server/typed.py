"""Reads streams of typed events as clients of the Responses and Messages APIs do."""

import json
from typing import Any

from tests.server.played import Played

Event = dict[str, Any]


def typed_stream(server: Played, path: str, body: dict[str, Any]) -> list[Event]:
    """The events of a streamed answer: LF-framed, each with its type as `event:` line too, and no `[DONE]`."""
    response = server.ask(path, {**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert b"\r" not in response.content
    *frames, rest = response.content.split(b"\n\n")
    assert rest == b""
    return [_event(frame) for frame in frames]


def _event(frame: bytes) -> Event:
    name, data = frame.split(b"\n")
    event: Event = json.loads(data.removeprefix(b"data: "))
    assert name == b"event: " + event["type"].encode()
    return event

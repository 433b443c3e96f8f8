"""Request ids: the client's is echoed when harmless, else a new one is made."""

import asyncio
import re

import pytest

from server.request_id import RequestIdMiddleware
from tests.server.asgi import call, echo


def id_for(value: bytes | None) -> str:
    headers = [] if value is None else [(b"x-request-id", value)]
    return asyncio.run(call(RequestIdMiddleware(echo), headers=headers)).headers["x-request-id"]


def test_harmless_ids_are_echoed() -> None:
    assert id_for(b"trace-1.a_b:c") == "trace-1.a_b:c"


@pytest.mark.parametrize(
    "value", [None, b"", b"a b", b"a\r\nset-cookie: x", b"\xff", b"x" * 129, b"../../etc"]
)
def test_other_ids_are_replaced(value: bytes | None) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", id_for(value))

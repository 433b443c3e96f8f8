"""One HTTP exchange over a connection of its own, with the time of every part and the exact way it ended.

httpx needs 9 ms of CPU per refused request when fifty are under way, and three times as much per streamed event: the
client would be the bottleneck of an overload. It also doesn't tell a reset before the first byte from one inside an
answer as plainly as is wanted here.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from enum import StrEnum

MAX_LINE = 1 << 20
"""Bytes of a head, or of a chunk's first line."""


class Failure(StrEnum):
    """Why an exchange has no whole answer."""

    UNREACHABLE = "no connection"
    RESET = "connection ended before the answer began"
    CUT = "connection ended inside the answer"
    TIMEOUT = "no end in time"
    MALFORMED = "not HTTP"


@dataclass(slots=True)
class Exchange:
    """One request and what came back; times in seconds of `time.perf_counter`.

    Attributes:
        status: 0 if no answer began.
        headers: names in lower case; of repeated ones the last.
        parts: the body as it arrived, each with its time; one per event for a stream.
        failure: None if the answer is whole, or if the client itself went away.
    """

    sent: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float = 0.0
    failure: Failure | None = None

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.parts)


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent.

    Attributes:
        body: an object to send as JSON, bytes to send as they are, or None.
        key: API key.
        leave_after: go away once so many parts have come, as a client that has had enough.
    """

    method: str
    path: str
    body: object = None
    key: str | None = None
    leave_after: int | None = None

    def encode(self) -> bytes:
        data = self.body if isinstance(self.body, bytes) else b""
        if self.body is not None and not isinstance(self.body, bytes):
            data = json.dumps(self.body).encode()
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: close",
            f"Content-Length: {len(data)}",
        ]
        if data:
            lines.append("Content-Type: application/json")
        if self.key is not None:
            lines.append(f"Authorization: Bearer {self.key}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def exchange(port: int, call: Call, timeout: float) -> Exchange:
    """Send one request to a loopback port and take the answer in. Raises nothing: failures are in the result."""
    result = Exchange(sent=time.perf_counter())
    try:
        async with asyncio.timeout(timeout):
            await _talk(port, call, result)
    except TimeoutError:
        result.failure = Failure.TIMEOUT
    except ConnectionRefusedError:
        result.failure = Failure.UNREACHABLE
    except (OSError, asyncio.IncompleteReadError):
        result.failure = Failure.CUT if result.status else Failure.RESET
    except (ValueError, asyncio.LimitOverrunError):
        result.failure = Failure.MALFORMED
    result.ended = time.perf_counter()
    return result


async def get(port: int, path: str, timeout: float = 10.0, key: str | None = None) -> Exchange:
    """A GET."""
    return await exchange(port, Call("GET", path, key=key), timeout)


async def _talk(port: int, call: Call, result: Exchange) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_LINE)
    try:
        writer.write(call.encode())
        _read_head(await reader.readuntil(b"\r\n\r\n"), result)
        if result.headers.get("transfer-encoding") == "chunked":
            await _read_chunks(reader, result, call.leave_after)
        elif length := int(result.headers.get("content-length", "0")):
            data = await reader.readexactly(length)
            result.parts.append((time.perf_counter(), data))
    finally:
        writer.transport.abort()  # also with data unsent or unread: nothing of a finished exchange may linger


def _read_head(head: bytes, result: Exchange) -> None:
    first, *lines = head.decode("latin-1").split("\r\n")
    result.status = int(first.partition(" ")[2][:3])
    for line in lines:
        name, _, value = line.partition(":")
        result.headers[name.lower()] = value.strip()


async def _read_chunks(reader: asyncio.StreamReader, result: Exchange, leave_after: int | None) -> None:
    while leave_after is None or len(result.parts) < leave_after:
        size = int(await reader.readuntil(b"\r\n"), 16)
        data = await reader.readexactly(size + 2)
        if size == 0:
            return
        result.parts.append((time.perf_counter(), data[:-2]))

"""Sockets against `server.connection`, without an HTTP client that would be too polite."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from server.connection import Connection
from server.strict_http import ConnectionEnd, ConnectionLimits

HEAD = b"GET /x HTTP/1.1\r\nHost: a\r\n"
GET = HEAD + b"\r\n"


def limits(**given: Any) -> ConnectionLimits:
    """Roomy ones but for those given."""
    defaults: dict[str, Any] = {
        "header_timeout": 30.0,
        "write_timeout": 30.0,
        "headers": 100,
        "header_bytes": 16 << 10,
        "connections": 1000,
    }
    return ConnectionLimits(**defaults | given)


@dataclass
class Raw:
    """What came on one connection until its end."""

    data: bytes
    reset: bool = False

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1]) if self.data else 0

    @property
    def statuses(self) -> list[int]:
        return [int(found) for found in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", self.data)]

    @property
    def headers(self) -> dict[str, str]:
        lines = self.data.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.data.partition(b"\r\n\r\n")[2])["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(self.data) <= 4096
        return error


@dataclass
class Serving:
    """A running server of one application; `ends` is what it counts of connections."""

    port: int
    state: ServerState
    ends: list[ConnectionEnd]

    async def connect(
        self, receive_buffer: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; with a small `receive_buffer` the server soon notices who does not read."""
        plain = socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        return await asyncio.open_connection(sock=plain)

    async def send(self, *pieces: bytes, seconds: float = 10.0, pause: float = 0.0) -> Raw:
        """Send the pieces and read until the server closes the connection."""
        reader, writer = await self.connect()
        try:
            async with asyncio.timeout(seconds):
                reading = asyncio.create_task(_read(reader))
                for piece in pieces:
                    try:
                        writer.write(piece)
                        await writer.drain()
                    except ConnectionError:
                        break
                    await asyncio.sleep(pause)
                return await reading
        finally:
            writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the server has forgotten every connection."""
        async with asyncio.timeout(10):
            while self.state.connections or self.state.tasks:
                await asyncio.sleep(0.01)


async def _read(reader: asyncio.StreamReader) -> Raw:
    data = bytearray()
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionResetError:
        return Raw(bytes(data), reset=True)
    return Raw(bytes(data))


@asynccontextmanager
async def serving(
    app: ASGIApp, given: ConnectionLimits | None = None, keep_alive: float = 5
) -> AsyncIterator[Serving]:
    """Serve `app` on a loopback port."""
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
    config.timeout_keep_alive = keep_alive  # type: ignore[assignment]
    config.load()
    state, ends = ServerState(), list[ConnectionEnd]()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(
            config=config, server_state=state, app_state={}, limits=given or limits(), on_end=ends.append
        ),
        "127.0.0.1",
        0,
    )
    try:
        yield Serving(server.sockets[0].getsockname()[1], state, ends)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)

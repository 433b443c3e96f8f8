"""A server that answers every connection with given bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tools.attack.target import Dialect, Target


@asynccontextmanager
async def scripted(answer: bytes, *, silent: bool = False) -> AsyncIterator[Target]:
    """Answer with `answer` as soon as anything comes and close; or say nothing and stay."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if silent:
            await asyncio.sleep(60)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Target(
            "scripted", "127.0.0.1", port, Dialect.LOOPSERVE, key="Key-abc", model="m", vocab_size=320
        )
    finally:
        server.close()


def response(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """A whole response."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body

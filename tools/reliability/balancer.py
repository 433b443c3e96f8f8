"""A load balancer like those in front of servers: it passes connections on to whoever answers /ready with 200."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tools.reliability.wire import get

CHECK_INTERVAL = 0.1
BUFFER = 1 << 16


class Balancer:
    """Deals connections out in turn; within a connection it changes nothing, so a kept one stays where it is."""

    def __init__(self) -> None:
        self.backends: dict[str, int] = {}
        """Port of each server by its name; who starts and stops them keeps it up to date."""
        self.port = 0
        self._ready: dict[int, bool] = {}
        self._turn = itertools.count()

    async def _check(self) -> None:
        while True:
            ports = [port for port in self.backends.values() if port]
            answers = await asyncio.gather(*(get(port, "/ready", timeout=1.0) for port in ports))
            self._ready = {port: answer.status == 200 for port, answer in zip(ports, answers, strict=True)}
            await asyncio.sleep(CHECK_INTERVAL)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            ports = [port for port, ready in self._ready.items() if ready]
            for _ in range(len(ports)):
                port = ports[next(self._turn) % len(ports)]
                try:
                    upstream = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                await asyncio.gather(_pipe(reader, upstream[1]), _pipe(upstream[0], writer))
                return
        writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(BUFFER):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def balancing() -> AsyncIterator[Balancer]:
    """A balancer that runs."""
    balancer = Balancer()
    server = await asyncio.start_server(balancer._serve, "127.0.0.1", 0)
    balancer.port = server.sockets[0].getsockname()[1]
    checking = asyncio.create_task(balancer._check())
    try:
        yield balancer
    finally:
        checking.cancel()
        server.close()
        await asyncio.gather(checking, return_exceptions=True)

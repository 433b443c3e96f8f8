"""Runs the application under uvicorn until a signal or the end of the engine."""

import asyncio
import functools
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import orjson
import uvicorn
from starlette.types import ASGIApp

from engine.freed_memory import PAUSE_S, IdleTrim
from server.connection import Connection
from server.engine_client import EngineClient
from server.listener import BACKLOG, Listener, connections_possible
from server.process_setup import say
from server.settings import Settings
from server.shutdown import Shutdown
from server.state import AppState
from server.strict_http import ConnectionEnd, ConnectionLimits

KEEP_ALIVE_S = 5
LAST_RESPONSES_S = 5  # for responses to reach their clients once their requests have ended
EXIT_OK = 0


class Server(uvicorn.Server):
    """uvicorn's server with our own meaning of signals.

    uvicorn's handler would stop accepting at once, and raise the signal again at the end, so that a clean shutdown
    ends with "killed by SIGTERM" instead of exit code 0.
    """

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for SIGINT and SIGTERM, between two bytecodes of the main thread."""
        self._on_signal()


async def run_server(
    app: ASGIApp,
    state: AppState,
    listening: Listener,
    settings: Settings,
    announcement: str,
    on_hangup: Callable[[], None],
) -> int:
    """Serve until told to stop or the engine is beyond help.

    Args:
        app: the application; its lifespan starts and stops the engine client.
        state: whose engine client is watched for its end.
        listening: where to accept connections.
        settings: for the drain time.
        announcement: printed once the engine is ready.
        on_hangup: called for each SIGHUP.

    Returns:
        The exit code.
    """
    loop, client, on_end = asyncio.get_running_loop(), state.client, state.metrics.on_connection_ended
    listening.on_turned_away = lambda: on_end(ConnectionEnd.DESCRIPTORS)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    # h11 refuses malformed requests that httptools lets through; both are far faster than a language model.
    config = uvicorn.Config(
        app,
        http=functools.partial(Connection, limits=_limits(settings), on_end=on_end),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_RESPONSES_S,
        backlog=BACKLOG,
    )
    server = Server(config, lambda: loop.call_soon_threadsafe(shutdown.request))
    shutdown = Shutdown(server, client, settings.drain_timeout)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    announcing = asyncio.create_task(_announce(client, announcement))
    failing = asyncio.create_task(client.wait_failed())
    trimming = asyncio.create_task(_trim_when_idle(server))
    try:
        await asyncio.wait({serving, failing}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        announcing.cancel()
        failing.cancel()
        trimming.cancel()
        await client.stop()  # again, for a shutdown that skipped the lifespan's end
    if client.failure is None:
        return EXIT_OK
    print(f"loopserve: {client.failure.message}", file=sys.stderr)
    return client.failure.exit_code


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        header_timeout=settings.header_timeout,
        write_timeout=settings.write_timeout,
        headers=settings.max_headers,
        header_bytes=int(settings.max_header_size),
        connections=connections_possible(settings.max_connections),
    )


async def _trim_when_idle(server: uvicorn.Server) -> None:
    """Watch for pauses in which no request runs or has run since the last look."""
    idle, state, seen = IdleTrim(), server.server_state, 0
    while True:
        idle.turn(bool(state.tasks) or state.total_requests != seen)
        seen = state.total_requests
        await asyncio.sleep(PAUSE_S / 2)


async def _announce(client: EngineClient, text: str) -> None:
    await client.wait_ready()
    say(text)


def address_of(listening: socket.socket) -> str:
    """The URL that a client on this machine uses."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def curl_line(address: str, model_name: str, with_key: bool) -> str:
    """A completion request to paste into a shell."""
    body = orjson.dumps({"model": model_name, "prompt": "def fibonacci(n):", "max_tokens": 64}).decode()
    key = ' -H "Authorization: Bearer $API_KEY"' if with_key else ""
    return f"curl {address}/v1/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"

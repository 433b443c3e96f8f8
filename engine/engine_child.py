"""The engine process from the inside: connect, load, loop. Torch-free; the core comes as a function that loads it."""

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable
from pathlib import Path

import zmq

from engine.child_process import die_with, leave_signals_to_parent
from engine.engine_loop import Core, run_engine
from engine.heartbeat import Heartbeat
from engine.log_format import log_to_stderr
from engine.messages import PROTOCOL_VERSION, EngineFailed, FromEngine, Shutdown, ToEngine
from engine.options import EngineOptions
from engine.wire import Hello, decode_hello, decode_to_engine, encode

HELLO_TIMEOUT_S = 30.0
LAST_WORDS_MS = 1000  # how long an ending engine waits for its last message to leave

Load = Callable[[EngineOptions, bool], Core]


def child_main(arguments: list[str], load: Load) -> int:
    """Body of the engine process.

    Args:
        arguments: address of the parent's socket, path of the heartbeat file, process id of the parent.
        load: makes the core from options and whether to show progress.

    Returns:
        The exit code.
    """
    address, heartbeat_path, parent = arguments[0], Path(arguments[1]), int(arguments[2])
    leave_signals_to_parent()
    die_with(parent)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    context = zmq.Context()
    link = _Link(context, address, parent)
    try:
        hello = link.hello()
        if hello is None:
            return 1
        if hello.protocol_version != PROTOCOL_VERSION:
            link.send(EngineFailed("Server and engine are of different versions.", model_error=False))
            return 1
        log_to_stderr(
            hello.log_level.upper(), hello.log_format, " (engine)" if hello.log_format == "json" else ""
        )
        heartbeat = Heartbeat(heartbeat_path)
        return run_engine(
            lambda: load(hello.options, hello.show_progress), link.receive, link.send, heartbeat.beat
        )
    finally:
        context.destroy(linger=LAST_WORDS_MS)


class _Link:
    """The engine's end of the socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, parent: int) -> None:
        self._parent = parent
        self._socket = context.socket(zmq.PAIR)
        self._socket.set_hwm(
            0
        )  # the API process bounds what is in flight; dropping or blocking would lose tokens
        self._socket.connect(address)

    def hello(self) -> Hello | None:
        """The parent's first message; None if it doesn't come."""
        if not self._socket.poll(int(HELLO_TIMEOUT_S * 1000)):
            return None
        return decode_hello(self._socket.recv())

    def send(self, message: FromEngine) -> None:
        # Again: the parent has gone and there is nobody to tell; `receive` ends the loop.
        with contextlib.suppress(zmq.Again):
            self._socket.send(encode(message), zmq.NOBLOCK)

    def receive(self, wait: float) -> list[ToEngine]:
        """All messages that have come; an orphan tells itself to shut down."""
        if os.getppid() != self._parent:
            return [Shutdown()]
        messages: list[ToEngine] = []
        if self._socket.poll(int(wait * 1000)):
            with contextlib.suppress(zmq.Again):
                while True:
                    messages.append(decode_to_engine(self._socket.recv(zmq.NOBLOCK)))
        return messages

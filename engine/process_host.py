"""Runs the engine in a process of its own, so that a crash there never takes the API process down.

The child is a fresh interpreter, not a fork: it shares no thread, lock or file with the API process, and it is the
only one to import torch. Both ends of the ipc:// socket and the heartbeat file live in a private directory.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from engine.child_process import import_path
from engine.errors import EngineStartError
from engine.heartbeat import Heartbeat
from engine.host import Inbox
from engine.log_format import LogFormat
from engine.messages import EngineReady, FromEngine, Shutdown, ToEngine
from engine.options import EngineOptions
from engine.wire import Hello, decode_from_engine, encode

logger = logging.getLogger(__name__)

ENGINE_MODULE = "engine.engine_process"
BRIEF_SPINNING = {"GOMP_SPINCOUNT": "30000"}
"""How long waiting compute threads spin before they sleep. OpenMP's default is ten times more: beside a busy process
a decode step of the demo model then took 160 ms instead of 3; this costs 5 % on an idle machine. Read when torch is
loaded; the environment may say otherwise."""
STOP_GRACE_S = 2.0
LAST_WORDS_S = 0.1  # how long messages of a dead process may still be on their way
STACK_DUMP_S = 0.3


class ProcessHost:
    """An `engine.host.EngineHost` around one child process."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        heartbeat_timeout: float,
        log_level: str = "info",
        log_format: LogFormat = "text",
        show_progress: bool = False,
        module: str = ENGINE_MODULE,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            options: what the engine loads.
            heartbeat_timeout: seconds without progress, once ready, after which the child is killed.
            log_level: of the child's log, which goes to this process's stderr.
            log_format: of its lines.
            show_progress: have the child draw a progress bar while loading.
            module: the child's main module.
        """
        self._hello = Hello(
            options=options, log_level=log_level, log_format=log_format, show_progress=show_progress
        )
        self._heartbeat_timeout = heartbeat_timeout
        self._module = module
        self._inbox = Inbox()
        self._ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._kill_reason: str | None = None

    @property
    def process_id(self) -> int | None:
        """Process id of the child, None before `start`."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the child; it loads on its own time.

        Raises:
            EngineStartError: the machine lacks something for it; nothing is left behind.
        """
        with contextlib.ExitStack() as undo:
            try:
                address, heartbeat_path = self._make_files(undo)
                self._process = await self._spawn(address, heartbeat_path)
            except (OSError, zmq.ZMQError) as error:
                raise EngineStartError(_why_not(error)) from error
            undo.pop_all()
        self._post(encode(self._hello))
        self._tasks = [
            asyncio.create_task(run) for run in (self._read(), self._watch_exit(), self._watch_beat())
        ]

    def send(self, message: ToEngine) -> None:
        """Queue a message for the child; see `EngineHost.send`."""
        if self._tasks and not self._inbox.closed:
            self._post(encode(message))

    async def receive(self) -> FromEngine:
        """See `EngineHost.receive`."""
        return await self._inbox.get()

    def heartbeat_age(self) -> float:
        """See `EngineHost.heartbeat_age`."""
        return self._heartbeat.age() if self._tasks and self._ready.is_set() else 0.0

    async def stop(self) -> None:
        """Ask the child to end, kill it if it doesn't, and remove socket and directory."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            if self._ready.is_set():  # one that still loads wouldn't read the message
                self.send(Shutdown())
                async with asyncio.timeout(STOP_GRACE_S):
                    await process.wait()
        except TimeoutError:
            logger.warning("the engine did not end within %s s and is killed", STOP_GRACE_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await self._clean_up()

    def _make_files(self, undo: contextlib.ExitStack) -> tuple[str, Path]:
        """Socket and heartbeat in a private directory; `undo` removes what was made.

        Raises:
            OSError, zmq.ZMQError: one of them can't be made.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="loopserve-")  # made with mode 0700
        undo.callback(self._directory.cleanup)
        path = f"{self._directory.name}/engine"
        if len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
            raise OSError(errno.ENAMETOOLONG, f"the path {path} is too long for a socket")
        address = f"ipc://{path}"
        heartbeat_path = Path(self._directory.name) / "heartbeat"
        self._heartbeat = Heartbeat(heartbeat_path)
        undo.callback(self._heartbeat.close)
        self._context = zmq.asyncio.Context()
        undo.callback(self._context.destroy, linger=0)
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)  # what is in flight is bounded by admission
        self._socket.bind(address)
        return address, heartbeat_path

    async def _spawn(self, address: str, heartbeat_path: Path) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", self._module, address, str(heartbeat_path), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            env={**BRIEF_SPINNING, **os.environ, "PYTHONPATH": import_path()},
            process_group=0,  # the terminal's Ctrl-C is for the API process, which then drains
        )

    def _post(self, data: bytes) -> None:
        # Sent at once if the peer is there, else kept by pyzmq until it is; never blocks. Order is kept.
        self._socket.send(data)

    async def _read(self) -> None:
        while True:
            try:
                message = decode_from_engine(await self._socket.recv())
            except msgspec.DecodeError as error:
                self._kill(f"The engine sent something unreadable: {error}")
                return
            if isinstance(message, EngineReady):
                self._ready.set()
            self._inbox.put(message)

    async def _watch_exit(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        await asyncio.sleep(LAST_WORDS_S)
        self._inbox.close(self._kill_reason or f"The engine process ended with {_describe_exit(code)}.")

    async def _watch_beat(self) -> None:
        """Kill a child that shows no progress: it may hold the GIL in native code, so it can't be asked."""
        await self._ready.wait()
        while (age := self._heartbeat.age()) < self._heartbeat_timeout:
            await asyncio.sleep(min(1.0, self._heartbeat_timeout - age + 0.01))
        logger.error("the engine made no progress for %.0f s; its stacks follow", age)
        self._signal(signal.SIGUSR1)
        await asyncio.sleep(STACK_DUMP_S)
        self._kill(f"The engine made no progress for {age:.0f} s and was killed.")

    def _kill(self, reason: str) -> None:
        self._kill_reason = reason
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _clean_up(self) -> None:
        self._inbox.close("The engine was stopped.")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._context.destroy(linger=0)
        self._heartbeat.close()
        self._directory.cleanup()


def _why_not(error: OSError | zmq.ZMQError) -> str:
    """What keeps the engine process from starting, and what to do, in one line."""
    advice = {
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "the system has no file descriptors left",
        errno.ENAMETOOLONG: "set TMPDIR to a shorter path",
        errno.ENOMEM: "free memory",
        errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    }.get(error.errno or 0, "set TMPDIR to a directory that can be written to and has room")
    return f"can't start the engine process: {error.strerror or error}; {advice}."


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

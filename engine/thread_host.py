"""Runs the engine in a thread of this process: for `--single-process`, small machines and tests.

A hang or a crash in native code takes everything down here; `engine.process_host` is the default for that reason.
"""

import asyncio
import contextlib
import pkgutil
import queue
import threading
import time
from collections.abc import Callable

from engine.engine_loop import Core, run_engine
from engine.host import Inbox
from engine.messages import FromEngine, Shutdown, ToEngine
from engine.options import EngineOptions

STOP_GRACE_S = 5.0


def core_loader(options: EngineOptions, show_progress: bool) -> Callable[[], Core]:
    """Loads the real core when called, which is what imports torch; importing this module must not."""

    def load() -> Core:
        core: Core = pkgutil.resolve_name("engine.core:EngineCore").load(options, show_progress)
        return core

    return load


class ThreadHost:
    """An `engine.host.EngineHost` around one thread."""

    def __init__(self, load: Callable[[], Core]) -> None:
        """Prepare; `load` is called in the thread, after `start`."""
        self._load = load
        self._inbox = Inbox()
        self._messages: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        self._last_beat: float | None = None
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Start the thread; it loads on its own time."""
        loop = asyncio.get_running_loop()
        # A daemon: a hung engine must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, args=(loop,), name="engine", daemon=True)
        self._thread.start()

    def send(self, message: ToEngine) -> None:
        """See `EngineHost.send`."""
        self._messages.put(message)

    async def receive(self) -> FromEngine:
        """See `EngineHost.receive`."""
        return await self._inbox.get()

    def heartbeat_age(self) -> float:
        """See `EngineHost.heartbeat_age`."""
        return 0.0 if self._last_beat is None else time.monotonic() - self._last_beat

    async def stop(self) -> None:
        """Ask the thread to end; one that hangs is left behind."""
        if self._thread is None:
            return
        self._messages.put(Shutdown())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE_S):
                await self._ended.wait()
        self._inbox.close("The engine was stopped.")
        self._thread = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        def send(message: FromEngine) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed while this thread hung
                loop.call_soon_threadsafe(self._inbox.put, message)

        code = run_engine(self._load, self._take, send, self._beat)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._end, code)

    def _end(self, code: int) -> None:
        self._inbox.close(f"The engine thread ended with code {code}.")
        self._ended.set()

    def _take(self, wait: float) -> list[ToEngine]:
        messages: list[ToEngine] = []
        with contextlib.suppress(queue.Empty):
            messages.append(self._messages.get(timeout=wait) if wait else self._messages.get_nowait())
            while True:
                messages.append(self._messages.get_nowait())
        return messages

    def _beat(self) -> None:
        self._last_beat = time.monotonic()

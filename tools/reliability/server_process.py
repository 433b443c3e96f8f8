"""Our own server as a child process: started, asked, signalled, looked at from outside."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tools.reliability.failure import ReliabilityError
from tools.reliability.wire import get

DEMO_MODEL = Path("models/demo")
DEMO_SERVER = (sys.executable, "-c", "from server.cli import main; main()", "serve", str(DEMO_MODEL))
START_SECONDS = 300.0  # a machine that never ran it compiles the kernels first
STOP_SECONDS = 60.0
SETTLE_SECONDS = 10.0
POLL = 0.02
API, ENGINE, GRAMMARS = "API process", "engine process", "grammar worker"
_CHILDREN = {ENGINE: "engine_process", GRAMMARS: "grammar_worker"}
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Launch:
    """How servers are started.

    Attributes:
        command: up to the options.
        options: of the command line.
        keys: API keys.
    """

    options: tuple[str, ...] = ()
    command: tuple[str, ...] = DEMO_SERVER
    keys: tuple[str, ...] = ()

    def with_options(self, *options: str) -> "Launch":
        return Launch((*self.options, *options), self.command, self.keys)


class ServerProcess:
    """One run of a server."""

    def __init__(self, launch: Launch, directory: Path) -> None:
        """Start it; it is not ready yet.

        Args:
            directory: empty, for its log and its temporary files.
        """
        self.log = directory / "log"
        self.scratch = directory / "t"  # a short name: the path of a socket within has 107 characters at most
        self.scratch.mkdir()
        self.started = time.perf_counter()
        self._port = 0
        self._key = launch.keys[0] if launch.keys else None
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(self.scratch)}
        if launch.keys:
            environment["LOOPSERVE_API_KEYS"] = ",".join(launch.keys)
        command = [*launch.command, "--port", "0", "--log-level", "warning", *launch.options]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    @property
    def pid(self) -> int:
        """Of the API process."""
        return self._process.pid

    @property
    def port(self) -> int:
        """Where it listens; 0 until it has said so."""
        if not self._port and (found := _ADDRESS.search(self.log.read_text())):
            self._port = int(found[1])
        return self._port

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    async def is_ready(self) -> bool:
        return bool(self.port) and (await get(self.port, "/ready", key=self._key)).status == 200

    async def wait_ready(self, seconds: float = START_SECONDS) -> float:
        """Seconds from the call until it was ready.

        Raises:
            ReliabilityError: it ended, or it takes too long.
        """
        begun = time.perf_counter()
        while not await self.is_ready():
            if self.exit_code is not None or time.perf_counter() > begun + seconds:
                raise ReliabilityError(f"the server does not get ready:\n{self.log.read_text()[-2000:]}")
            await asyncio.sleep(POLL)
        return time.perf_counter() - begun

    async def wait_exit(self, seconds: float = STOP_SECONDS) -> int | None:
        """The exit code; None if it still runs then."""
        deadline = time.perf_counter() + seconds
        while self.exit_code is None and time.perf_counter() < deadline:
            await asyncio.sleep(POLL)
        return self.exit_code

    def processes(self) -> dict[str, int]:
        """Process ids by role: the API process, and of its children those that run just now."""
        found = {API: self.pid}
        try:
            for child in psutil.Process(self.pid).children():
                command = " ".join(child.cmdline())
                found |= {role: child.pid for role, module in _CHILDREN.items() if module in command}
        except psutil.Error:  # it ended while it was looked at
            pass
        return found

    def signal(self, number: signal.Signals) -> None:
        """To the API process."""
        self._process.send_signal(number)

    async def metrics(self) -> dict[str, float]:
        """All samples of /metrics as `name{label=value,...}`.

        Raises:
            ReliabilityError: no metrics came.
        """
        done = await get(self.port, "/metrics", key=self._key)
        if done.status != 200:
            raise ReliabilityError(f"/metrics answered {done.failure or done.status}")
        return {
            sample.name + _labels(sample.labels): sample.value
            for family in text_string_to_metric_families(done.body.decode())
            for sample in family.samples
        }

    async def leftovers(self) -> str:
        """What is still held although nobody asks for anything any more; "" once nothing is."""
        deadline = time.perf_counter() + SETTLE_SECONDS
        while True:
            metrics = await self.metrics()
            held = [f"{name} = {metrics[name]:g}" for name in HELD if metrics.get(name)]
            if not held or time.perf_counter() > deadline:
                return ", ".join(held)
            await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Make sure that it is gone."""
        if self.exit_code is None:
            engine = self.processes().get(ENGINE)
            self._process.terminate()
            if await self.wait_exit() is None:
                self._process.kill()
                if engine is not None and psutil.pid_exists(engine):
                    os.kill(engine, signal.SIGKILL)
        self._process.wait()


HELD = (
    "loopserve_requests_in_flight",
    "loopserve_num_requests_running",
    "loopserve_num_requests_waiting",
    "loopserve_kv_cache_blocks{state=used}",
    "loopserve_kv_cache_blocks_used{group=shared}",
    "loopserve_kv_cache_blocks_used{group=window}",
)
"""Must be 0 in a server that nobody asks for anything."""


@asynccontextmanager
async def running(launch: Launch) -> AsyncIterator[ServerProcess]:
    """A server that is ready; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rel-") as directory:
        server = ServerProcess(launch, Path(directory))
        try:
            await server.wait_ready()
            yield server
        finally:
            await server.end()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def with_defaults(options: Sequence[str], defaults: dict[str, str]) -> tuple[str, ...]:
    """Options of the command line, and those defaults that they don't set."""
    missing = [(name, value) for name, value in defaults.items() if name not in options]
    return (*options, *(part for pair in missing for part in pair))


def _labels(labels: dict[str, str]) -> str:
    inside = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return f"{{{inside}}}" if inside else ""

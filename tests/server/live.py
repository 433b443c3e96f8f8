"""A real server process on a free loopback port, for tests with real clients."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from openai import OpenAI

START_SECONDS = 120.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class LiveServer:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, api_key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=60)

    def engine_pid(self) -> int:
        """The engine process: the server's child that runs `engine`."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child.pid for child in children if any("engine" in part for part in child.cmdline()))

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log.read_text()}")


@contextmanager
def live_server(
    model: Path, *options: str, module: str | None = None, before: Callable[[], None] | None = None
) -> Iterator[LiveServer]:
    """Serve `model` with the command line's `options`; SIGTERM at the end must give exit code 0.

    Args:
        module: run instead of the ordinary command line.
        before: called in the new process before it becomes the server.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "server.log"
        command = [
            sys.executable,
            *(("-c", "from server.cli import main; main()") if module is None else ("-m", module)),
            "serve",
            str(model),
            "--port",
            "0",
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--log-level", "warning", "--calibration-time", "0", *options],
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
                preexec_fn=before,
            )
        try:
            server = LiveServer(process, _port(process, log), log)
            server.wait_ready()
            yield server
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := _ADDRESS.search(log.read_text()):
            return int(found[1])
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError("the server never printed its address")

"""The servers that clients talk to: real processes on free loopback ports, with a random key."""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from engine.errors import LoopserveError
from tools.compatibility.catalogue import Engine

DEMO_MODEL = Path("models/demo")
START_SECONDS = 300.0  # a machine that never ran it compiles the kernels first
STOP_SECONDS = 40.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
_LOOPSERVE = [sys.executable, "-c", "from server.cli import main; main()", "serve", str(DEMO_MODEL)]
_COMMANDS = {
    Engine.DEMO: _LOOPSERVE,
    Engine.SHORT: [*_LOOPSERVE, "--max-model-len", "128"],
    Engine.SCRIPT: [sys.executable, "-m", "tools.compatibility.scripted", str(DEMO_MODEL)],
}


class CompatibilityError(LoopserveError):
    """The run can't go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    url: str
    key: str


def new_key() -> str:
    """A key as providers' keys look: one that begins with a dash is an option to a client's command line."""
    return f"sk-{secrets.token_hex(16)}"


@contextmanager
def serving(engine: Engine, count: int, logs: Path) -> Iterator[list[Served]]:
    """Start servers with one key and stop them at the end.

    Args:
        engine: what they run.
        count: how many.
        logs: directory for what they print.

    Raises:
        CompatibilityError: one does not get ready; its output is in `logs`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    key = new_key()
    with ExitStack() as stack:
        yield [
            stack.enter_context(_one(engine, key, logs / f"{engine.name.lower()}-{i}.log"))
            for i in range(count)
        ]


@contextmanager
def _one(engine: Engine, key: str, log: Path) -> Iterator[Served]:
    command = [*_COMMANDS[engine], "--port", "0", "--log-level", "warning"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "LOOPSERVE_API_KEYS": key}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        yield Served(_await_ready(process, log), key)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        address = _ADDRESS.search(log.read_text(encoding="utf-8"))
        if address and _is_ready(address[0]):
            return address[0]
        time.sleep(0.1)
    raise CompatibilityError(f"the server does not get ready; see {log}")


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False

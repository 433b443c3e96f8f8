"""Whole server processes over the fake core: probes, drain, aborts, crashes and exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.engine.fake_core import BREAK_STEP, HANG

SECONDS = 60.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass
class Process:
    """A running server; its log is stdout and stderr together."""

    popen: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    def text(self) -> str:
        return self.log.read_text()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def complete(self, prompt: int, max_tokens: int = 3) -> httpx.Response:
        body = {"model": "m", "prompt": [prompt], "max_tokens": max_tokens}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=SECONDS)

    def wait_for(self, status: int, path: str = "/ready") -> None:
        wait_until(lambda: self.get(path).status_code == status)

    def exit_code(self) -> int:
        return self.popen.wait(SECONDS)

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


Start = Callable[..., AbstractContextManager[Process]]


@pytest.fixture
def start(checkpoint: Path, tmp_path: Path) -> Start:
    """Starts a server; `behaviour` is what the fake core does, see `FakeCore.load`."""

    @contextmanager
    def starter(behaviour: str, *options: str, ready: bool = True) -> Iterator[Process]:
        model = shutil.copytree(checkpoint, tmp_path / behaviour)
        log = tmp_path / "log"
        command = [sys.executable, "-m", "tests.server.fake_server", "serve", str(model), "--port", "0"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [*command, "--served-model-name", "m", *options], stdout=out, stderr=out, env=environment
            )
        process = Process(popen, log)
        children: list[psutil.Process] = []
        try:
            wait_until(lambda: popen.poll() is not None or bool(_ADDRESS.search(process.text())))
            process.url = match[0] if (match := _ADDRESS.search(process.text())) else ""
            if ready:
                process.wait_for(200)
                children = psutil.Process(popen.pid).children(recursive=True)
            yield process
        finally:
            popen.kill()
            popen.wait()
        wait_until(lambda: not any(child.is_running() for child in children))

    return starter


@dataclass
class Stream:
    """A streamed completion read in a thread."""

    process: Process
    max_tokens: int
    events: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: bool(self.events))

    def result(self) -> list[Any]:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        return self.events

    def _read(self) -> None:
        body = {"model": "m", "prompt": [65], "max_tokens": self.max_tokens, "stream": True}
        with httpx.stream("POST", f"{self.process.url}/v1/completions", json=body, timeout=SECONDS) as answer:
            for line in answer.iter_lines():
                if line:
                    data = line.removeprefix("data: ")
                    self.events.append(data if data == "[DONE]" else json.loads(data))


def test_probes_while_loading_and_a_prompt_end(start: Start) -> None:
    with start("slow-load", ready=False) as server:
        health = server.get("/health")
        assert (health.status_code, health.json()) == (200, {"status": "ok", "engine": "loading"})
        ready = server.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "loading"})
        assert int(ready.headers["retry-after"]) > 0
        refused = server.complete(1)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"
        assert int(refused.headers["retry-after"]) > 0
        before = time.monotonic()
        server.stop()
        assert server.exit_code() == 0
        assert time.monotonic() - before < 10, "nothing is in flight, so nothing is waited for"


@pytest.mark.parametrize("options", [[], ["--single-process"]])
def test_serves_and_announces_itself(start: Start, options: list[str]) -> None:
    with start("step=0", *options) as server:
        answer = server.complete(65)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 3
        assert f"curl {server.url}/v1/completions" in server.text()
        assert "loopserve_engine_steps_total 3.0" in server.get("/metrics").text
        assert server.get("/nowhere").status_code == 404
        server.stop()
        assert server.exit_code() == 0


def test_sigterm_drains(start: Start) -> None:
    with start("step=0.05") as server:
        stream = Stream(server, max_tokens=60)
        server.stop()
        server.wait_for(503)
        assert server.get("/ready").json() == {"status": "draining"}
        refused = server.complete(1)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        events = stream.result()
        assert events[-1] == "[DONE]"
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        assert server.exit_code() == 0


def test_requests_that_outlast_the_drain_get_an_error_event(start: Start) -> None:
    with start("step=0.05", "--drain-timeout", "0.2") as server:
        stream = Stream(server, max_tokens=2000)
        server.stop()
        events = [event for event in stream.result() if event != "[DONE]"]
        assert events[-1]["error"]["code"] == "unavailable"
        assert server.exit_code() == 0
        assert "did not finish" in server.text()


def test_a_second_signal_ends_at_once(start: Start) -> None:
    with start("step=0.05", "--drain-timeout", "3600") as server:
        stream = Stream(server, max_tokens=2000)
        server.stop()
        server.wait_for(503)
        server.popen.send_signal(signal.SIGINT)
        stream.result()
        assert server.exit_code() == 0


def test_an_engine_that_keeps_crashing_ends_the_server_with_70(start: Start) -> None:
    with start("step=0") as server:
        for _ in range(4):
            server.wait_for(200)
            answer = server.complete(BREAK_STEP)
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_dead")
        assert server.exit_code() == 70
        assert (
            "loopserve: The engine stopped on an internal error: RuntimeError: broken step" in server.text()
        )


def test_a_hung_engine_is_replaced(start: Start) -> None:
    with start("step=0", "--heartbeat-timeout", "1") as server:
        answer = server.complete(HANG)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_dead")
        server.wait_for(200)
        assert server.complete(65).status_code == 200
        assert "loopserve_engine_restarts_total 1.0" in server.get("/metrics").text
        server.stop()
        assert server.exit_code() == 0


def test_a_hung_thread_makes_the_server_unready(start: Start) -> None:
    with start("step=0", "--heartbeat-timeout", "1", "--single-process") as server:

        def ask() -> None:
            with pytest.raises(httpx.HTTPError):  # the server is killed below
                server.complete(HANG)

        asking = threading.Thread(target=ask)
        asking.start()
        server.wait_for(503)
        assert server.get("/ready").json() == {"status": "unresponsive"}
        assert server.get("/health").status_code == 200
        server.popen.kill()
        asking.join()


def test_a_model_the_engine_refuses_is_exit_code_2(start: Start) -> None:
    with start("missing", ready=False) as server:
        assert server.exit_code() == 2
        assert "loopserve: No such model." in server.text().splitlines()

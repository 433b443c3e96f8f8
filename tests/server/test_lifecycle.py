"""Whole server processes over the fake core: probes, drain, aborts, crashes and exit codes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
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

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def engine(self) -> psutil.Process:
        (child,) = psutil.Process(self.popen.pid).children()
        return child


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
                if line and not line.startswith(":"):
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(start: Start, number: signal.Signals) -> None:
    with start("step=0.05") as server:
        stream = Stream(server, max_tokens=60)
        server.stop(number)
        server.wait_for(503)
        assert server.get("/ready").json() == {"status": "draining"}
        refused = server.complete(1)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert refused.headers["connection"] == "close"
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


def test_a_stopped_engine_is_replaced(start: Start) -> None:
    """SIGSTOP: it can't even dump its stacks."""
    with start("step=0.02", "--heartbeat-timeout", "1") as server:
        stream = Stream(server, max_tokens=2000)
        engine = server.engine()
        before = time.monotonic()
        engine.suspend()
        assert stream.result()[-2]["error"]["code"] == "engine_dead"
        assert time.monotonic() - before < 5
        server.wait_for(200)
        assert server.engine().pid != engine.pid
        server.stop()
        assert server.exit_code() == 0


def test_a_killed_engine_is_told_to_every_client_within_a_second(start: Start) -> None:
    with start("step=0.02") as server:
        streams = [Stream(server, max_tokens=2000) for _ in range(4)]
        before = time.monotonic()
        server.engine().kill()
        assert {stream.result()[-2]["error"]["code"] for stream in streams} == {"engine_dead"}
        assert time.monotonic() - before < 1
        server.wait_for(200)
        server.stop()
        assert server.exit_code() == 0


def test_requests_that_wait_are_served_before_the_end(start: Start) -> None:
    with start("step=0.02,seats=1") as server, ThreadPoolExecutor() as threads:
        stream = Stream(server, max_tokens=50)
        waiting = [threads.submit(server.complete, 65, 10) for _ in range(4)]
        wait_until(lambda: "loopserve_num_tokens_waiting 4.0" in server.get("/metrics").text)
        server.stop()
        assert [answer.result().status_code for answer in waiting] == [200] * 4
        assert stream.result()[-1] == "[DONE]"
        assert server.exit_code() == 0


def test_idle_connections_do_not_hold_up_the_end(start: Start) -> None:
    with start("step=0") as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/health").headers.get("connection") != "close"
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address):  # and one that has said nothing
            before = time.monotonic()
            server.stop()
            assert server.exit_code() == 0
        assert time.monotonic() - before < 3, "kept alive for 5 s otherwise"


def test_openais_client_comes_back_when_it_is_told_to(start: Start) -> None:
    with start("step=0.05,seats=1", "--max-num-seqs", "1", "--max-waiting-requests", "0") as server:
        stream = Stream(server, max_tokens=10)
        full = server.complete(65)
        assert full.status_code == 503
        assert 1 <= int(full.headers["retry-after"]) <= 5
        before = time.monotonic()
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2) as client:
            answer = client.completions.create(model="m", prompt=[65], max_tokens=3)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3
        assert time.monotonic() - before > 0.9, "as long as it was told, not the half second of its own"
        stream.result()
        assert 'loopserve_requests_refused_total{reason="queue_full"} 2.0' in server.get("/metrics").text
        server.stop()
        assert server.exit_code() == 0


def test_what_the_engine_does_not_take_up_in_time_is_refused(start: Start) -> None:
    with start("step=0.02,seats=1", "--queue-timeout", "0.5") as server:
        stream = Stream(server, max_tokens=2000)
        refused = server.complete(65)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_timeout")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(stream.events) > 5, "the one that was taken up has no such deadline"
        server.stop()
        server.wait_for(503)  # two signals at once are one
        server.stop()
        stream.result()
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

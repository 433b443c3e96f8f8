"""A whole server process whose clients do their worst, as its clients and its log see it."""

import http.client
import re
import resource
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from engine.log_format import MAX_LINE_BYTES
from tests.server.live import LiveServer, live_server

LARGE = b'{"prompt": "' + b"x" * (12 << 20) + b'"}'
JSON = {"Content-Type": "application/json"}
FORGED = "a\r\nERROR root: forged\x1b[31m\x00"
SECRET = "a prompt that no log shows"


@contextmanager
def fake_server(model: Path, *options: str) -> Iterator[LiveServer]:
    with live_server(model, *options, module="tests.server.fake_server") as server:
        yield server


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[LiveServer]:
    options = ("--header-timeout", "1", "--body-timeout", "1", "--max-headers", "20", "--max-stops", "3")
    with fake_server(checkpoint, *options, "--served-model-name", "m", "--log-level", "info") as running:
        yield running


def raw(server: LiveServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(data)
        out = b""
        while piece := client.recv(65536):
            out += piece
    return out


def refused(server: LiveServer, reason: str) -> float:
    """How many connections the server says it ended so."""
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    [count] = re.findall(
        rf'^loopserve_connections_refused_total{{reason="{reason}"}} (.+)$', text, re.MULTILINE
    )
    return float(count)


def test_what_is_refused_below_the_application_is_in_the_metrics(server: LiveServer) -> None:
    before = refused(server, "malformed")
    assert raw(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert refused(server, "malformed") == before + 1


def test_settings_reach_the_connection_and_the_checks(server: LiveServer) -> None:
    assert raw(server, b"GET /health HTTP/1.1\r\n").startswith(b"HTTP/1.1 408 ")
    head = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
    assert raw(server, head).startswith(b"HTTP/1.1 408 ")
    many = b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 20 + b"\r\n"
    assert raw(server, many).startswith(b"HTTP/1.1 431 ")
    body = {"prompt": [5], "max_tokens": 1, "stop": ["a"] * 4}
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stop")


def test_clients_see_the_413_of_a_body_sent_in_one_piece(server: LiveServer) -> None:
    url = f"{server.url}/v1/completions"
    for _ in range(3):
        answer = httpx.post(url, content=LARGE, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, LARGE, JSON), timeout=20)
        assert refused.value.code == 413
        refused.value.close()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", "/v1/completions", LARGE, JSON)
        assert connection.getresponse().status == 413
        connection.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"])
def test_curl_sees_the_413(server: LiveServer, tmp_path: Path, expect: str) -> None:
    body = tmp_path / "body"
    body.write_bytes(LARGE)
    command = [
        "curl",
        "-sS",
        "-H",
        "Content-Type: application/json",
        "-H",
        expect,
        "--data-binary",
        f"@{body}",
    ]
    done = subprocess.run(
        [*command, f"{server.url}/v1/completions"], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, b"request_too_large" in done.stdout) == (0, True), done


def test_nothing_of_a_request_forges_a_line_of_the_log(server: LiveServer) -> None:
    url = f"{server.url}/v1/completions"
    fields = {
        "model": FORGED,
        "user": FORGED,
        FORGED: 1,
        "x" * 1_000_000: FORGED,
        "request_id": FORGED,
        "stop": FORGED,
        "cache_salt": FORGED,
        "logit_bias": {FORGED: 1},
    }
    for name, value in fields.items():
        for size in (1, 50_000):
            longer = value * size if isinstance(value, str) else value
            httpx.post(url, json={"prompt": SECRET, "max_tokens": 1, name: longer})
    for header in ("X-Request-Id", "User-Agent", "Authorization", "X-Loops"):
        httpx.post(url, json={"prompt": SECRET, "max_tokens": 1}, headers={header: "\x1b[31m\t forged" * 100})
        raw(server, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s: a\x00\r\n\r\n" % header.encode())
    for path in ("%0d%0aERROR%20root:%20forged", "%1b%5b31m", "%00", "%E2%80%AE", "x" * 10_000):
        httpx.get(f"{server.url}/v1/models/{path}")
        httpx.get(f"{server.url}/{path}")
    lines = server.log.read_bytes().split(b"\n")
    assert any(b"ignored 1 unknown request fields" in line for line in lines), "something was logged"
    for line in lines:
        assert len(line) <= MAX_LINE_BYTES
        assert line.decode().isprintable()
        assert not line.startswith(b"ERROR root: forged")
        assert SECRET.encode() not in line


def test_a_process_out_of_file_descriptors_lives_and_recovers(checkpoint: Path) -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    module = "tests.server.fake_server"
    with live_server(checkpoint, "--header-timeout", "2", module=module, before=few_files) as server:
        process = psutil.Process(server.process.pid)
        before = process.num_fds()
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(200)]
        process.cpu_percent()
        time.sleep(0.5)
        assert process.cpu_percent() < 80, "no busy waiting"
        for client in held:
            client.close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and process.num_fds() > before:
            time.sleep(0.05)
        assert process.num_fds() <= before
        body = {"prompt": [5], "max_tokens": 2}
        assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=10).status_code == 200
        assert refused(server, "descriptors") > 0
        log = server.log.read_text()
        assert "ulimit -n" in log
        assert len(log.splitlines()) < 20

"""A server process with a key file: SIGHUP, what the wire says against what authentication sees, and what gets out."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server.live import LiveServer, live_server

SECONDS = 30.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# one a line\nstays-key\nold-key\n")
    return file


@pytest.fixture(scope="module")
def server(checkpoint: Path, key_file: Path) -> Iterator[LiveServer]:
    options = ["--kv-cache-memory", "16MiB", "--api-key-file", str(key_file), "--log-level", "info"]
    with live_server(checkpoint, *options) as one:
        yield one


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def status(server: LiveServer, key: str) -> int:
    return httpx.get(f"{server.url}/v1/models", headers=bearer(key)).status_code


def test_a_tenant_sees_its_own_hits_only(server: LiveServer) -> None:
    def cached(key: str, **more: str) -> int:
        body = {"prompt": "a shared system prompt, " * 8, "max_tokens": 1, **more}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=bearer(key))
        tokens: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return tokens

    assert cached("stays-key") == 0
    assert cached("stays-key") > 0
    assert cached("old-key") == 0
    assert cached("old-key") > 0
    assert cached("stays-key", cache_salt="s") == 0


def test_sighup_replaces_the_keys_and_ends_no_request(server: LiveServer, key_file: Path) -> None:
    body = {"prompt": "a", "max_tokens": 400, "stream": True, "ignore_eos": True}
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=body, headers=bearer("old-key"), timeout=SECONDS
    ) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        key_file.write_text("")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "still 2 API keys" in server.log.read_text())
        assert [status(server, key) for key in ("stays-key", "old-key")] == [200, 200]
        key_file.write_text("stays-key\nnew-key\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "2 API keys, 1 new, 1 removed" in server.log.read_text())
        assert [status(server, key) for key in ("stays-key", "old-key", "new-key")] == [200, 401, 200]
        *_, last, done = lines
    assert done == "data: [DONE]"
    assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def test_keys_are_nowhere_to_be_seen(server: LiveServer) -> None:
    pages = [
        httpx.get(server.url + path, headers=bearer("stays-key")).text
        for path in ("/metrics", "/openapi.json", "/version", "/v1/models", "/nowhere", "/health")
    ]
    refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}, headers=bearer("typo-key"))
    family = [
        psutil.Process(server.process.pid),
        *psutil.Process(server.process.pid).children(recursive=True),
    ]
    arguments = " ".join(part for process in family for part in process.cmdline())
    for text in [*pages, refused.text, server.log.read_text(), arguments]:
        assert not re.search("(stays|old|new|typo)-key", text)


def ask(server: LiveServer, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return answer.split(b" ", 2)[1]


KEY = b"Authorization: Bearer stays-key\r\n"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET http://x/health HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET http://x/v1/models HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET /health/../v1/models HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET /health%2f..%2fv1%2fmodels HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET /v1/models?/health HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET /v1/models#/health HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Forwarded-Prefix: /health\r\n", b"401"),
        (b"GET /v1/models?api_key=stays-key HTTP/1.1\r\nHost: x\r\n", b"401"),
        (b"GET /v1/models HTTP/1.1\r\nHost: x/health?\r\n", b"400"),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: x\r\n" + KEY, b"400"),
        (b"GET /v1/models HTTP/1.1\r\n" + KEY, b"400"),
        (b"GET /v1/models HTTP/1.0\r\n" + KEY, b"400"),
        (b"GET http://evil/v1/models HTTP/1.1\r\nHost: x\r\n" + KEY, b"404"),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + KEY, b"200"),
        (b"GET /health HTTP/1.0\r\n", b"200"),
        (b"GET /health HTTP/1.1\r\nHost: 10.0.0.1\r\n", b"200"),
    ],
)
def test_what_the_wire_says_never_changes_what_auth_sees(
    server: LiveServer, head: bytes, expected: bytes
) -> None:
    assert ask(server, head) == expected


def test_sighup_without_a_key_file_is_ignored_by_all_processes(checkpoint: Path) -> None:
    with live_server(checkpoint, "--kv-cache-memory", "16MiB") as one:
        children = psutil.Process(one.process.pid).children(recursive=True)
        assert children
        for pid in [one.process.pid, *(child.pid for child in children)]:
            os.kill(pid, signal.SIGHUP)
        wait_until(lambda: "no --api-key-file" in one.log.read_text())
        assert httpx.post(f"{one.url}/v1/completions", json={"prompt": "a"}).status_code == 200
        assert all(child.is_running() for child in children)

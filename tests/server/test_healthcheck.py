"""The image's health check as a process: its exit code, and what it must not be led astray by."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.healthcheck import address
from tests.deploy.documents import ROOT


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server whose `/ready` has this status, and everything else another; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 418)
            self.end_headers()
            self.wfile.write(b"so it is")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "server.healthcheck")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOOPSERVE_")}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=clean | environment, timeout=30, check=False
    )


def test_ready_is_0() -> None:
    with answering(200) as port:
        assert check({"LOOPSERVE_PORT": str(port), "LOOPSERVE_HOST": "0.0.0.0"}).returncode == 0


def test_not_ready_is_1_and_says_why() -> None:
    with answering(503) as port:
        result = check({"LOOPSERVE_PORT": str(port)})
    assert (result.returncode, result.stdout) == (1, "503: so it is\n")


def test_nobody_there_is_1() -> None:
    with answering(200) as port:
        pass
    result = check({"LOOPSERVE_PORT": str(port)})
    assert result.returncode == 1
    assert "ConnectionRefusedError" in result.stdout


def test_a_port_that_is_no_number_is_1() -> None:
    result = check({"LOOPSERVE_PORT": "tcp://10.0.0.1:8000"})
    assert result.returncode == 1
    assert result.stdout.startswith("LOOPSERVE_PORT: ")
    assert result.stderr == ""


def test_a_proxy_is_not_asked() -> None:
    with answering(200) as port:
        proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:1")
        assert check({"LOOPSERVE_PORT": str(port), **proxy}).returncode == 0


@pytest.mark.parametrize(
    ("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.1.2.3", "10.1.2.3"), ("", "127.0.0.1")]
)
def test_the_address(host: str, asked: str) -> None:
    assert address({"LOOPSERVE_HOST": host, "LOOPSERVE_PORT": "9"}) == (asked, 9)


def test_the_default_address() -> None:
    assert address({}) == ("127.0.0.1", 8000)

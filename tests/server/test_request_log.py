"""One line per request, over a real server whose engine is a process of its own."""

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.live import live_server

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
EXAMPLE = re.compile(r"^```json\n(.+server\.request_log.+)$", re.MULTILINE)
FAKE = "tests.server.fake_server"
SECRET = "what nobody else should read"
KEY = "a-key-of-a-client"


def wait_for(log: Path, text: str) -> None:
    """A line is written when its response has left, so a client may be faster."""
    deadline = time.monotonic() + 10
    while text not in log.read_text():
        assert time.monotonic() < deadline, text
        time.sleep(0.02)


def lines(log: Path) -> list[dict[str, Any]]:
    """The lines of JSON; everything but the greeting is one."""
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert all({"time", "level", "logger", "process", "message"} <= set(line) for line in found)
    return found


def test_a_line_per_request_as_json(checkpoint: Path) -> None:
    options = ("--log-format", "json", "--log-requests", "--log-level", "info", "--api-key", KEY)
    with live_server(checkpoint, *options, module=FAKE) as server:
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine"}
        body = {"prompt": SECRET, "max_tokens": 3, "n": 2}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        body |= {"stream": True, "n": 1}
        assert httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=30).is_success
        assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=30).status_code == 401
        wait_for(server.log, '"status": 401')
        found = [line for line in lines(server.log) if line["message"] == "request"]
        text = server.log.read_text()
    mine = [line for line in found if line.get("request_id") == "mine"]
    whole, streamed = mine
    usage = answer.json()["usage"]
    assert whole["answer"] == answer.json()["id"]
    assert whole["path"] == "/v1/completions"
    assert (whole["method"], whole["status"], whole["level"]) == ("POST", 200, "info")
    assert whole["generated_tokens"] == usage["completion_tokens"] == 6
    assert whole["finish_reasons"] == "length,length"
    assert whole["loops"] == usage.get("loops", 0)
    assert 0 < whole["first_token_seconds"] <= whole["seconds"] < 30
    assert streamed["generated_tokens"] == 3
    assert whole["prompt_tokens"] == 2 * streamed["prompt_tokens"] > 0
    assert len(whole["account"]) == 8
    found_example = EXAMPLE.search(OPERATIONS.read_text())
    assert found_example is not None
    documented = json.loads(found_example[1])
    assert [(name, type(value)) for name, value in documented.items()] == [
        (name, type(value)) for name, value in whole.items()
    ]
    [refused] = [line for line in found if line["status"] == 401]
    assert "account" not in refused
    assert "answer" not in refused
    assert SECRET not in text
    assert KEY not in text


@pytest.mark.parametrize("log_requests", [True, False])
def test_a_line_per_request_as_text(checkpoint: Path, log_requests: bool) -> None:
    options = ("--log-requests",) if log_requests else ()
    with live_server(checkpoint, *options, "--log-level", "info", module=FAKE) as server:
        httpx.get(f"{server.url}/v1/models", timeout=30)
        httpx.get(
            f"{server.url}/v1/models", timeout=30
        )  # when this is answered, the first one's line is written
        text = server.log.read_text()
    assert ("INFO server.request_log: request request_id=" in text) is log_requests
    assert ("path=/v1/models status=200 seconds=0." in text) is log_requests


def test_the_engines_lines_have_the_same_format(checkpoint: Path) -> None:
    with live_server(checkpoint, "--log-format", "json", "--log-level", "info") as server:
        found = lines(server.log)
    loaded = [line for line in found if line["process"] == "engine"]
    assert any("parameters" in line["message"] for line in loaded)

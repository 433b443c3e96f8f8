"""vllm-router in front of two replicas: what passes through it is what a replica would say itself."""

import http.client
import json
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from checking import (
    KEY,
    LONG_RUN,
    MODEL,
    PROMPT,
    TOO_LONG,
    URLS,
    equal,
    feature,
    main,
    metric,
    raises,
    request,
    require,
)

BODY: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def router() -> Iterator[str]:
    """A router with the prefix-aware policy, ready to pass requests on."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("vllm-router")), "--worker-urls", *URLS]
    options = ["--port", str(port), "--prometheus-port", str(free_port()), "--policy", "cache_aware"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not answers(url):
            require(process.poll() is None and time.monotonic() < deadline, "the router does not start")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    try:
        request("/v1/completions", {**BODY, "max_tokens": 1}, url)
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def events(url: str, body: dict[str, Any]) -> list[bytes]:
    """The raw events of a streamed answer."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps({**body, "stream": True}), headers)
    content = connection.getresponse().read()
    connection.close()
    return content.split(b"\n\n")


@feature("completion")
def completion() -> None:
    direct = request("/v1/completions", BODY)
    with router() as url:
        equal(request("/v1/completions", BODY, url)["choices"], direct["choices"], "choices")
        # One long prefix goes to one replica, whose cache has it.
        before = [metric("loopserve_prompt_tokens_total", one) for one in URLS]
        for number in range(6):
            request("/v1/completions", {**BODY, "prompt": PROMPT * 40 + str(number)}, url)
        grown = [
            metric("loopserve_prompt_tokens_total", one) - then
            for one, then in zip(URLS, before, strict=True)
        ]
        require(min(grown) == 0 < max(grown), f"prompt tokens of one prefix by replica: {grown}")


@feature("stream")
def stream() -> None:
    text = request("/v1/completions", BODY)["choices"][0]["text"]
    with router() as url:
        *chunks, done, rest = events(url, BODY)
    equal((done, rest), (b"data: [DONE]", b""), "end")
    parts = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    require(len(parts) > 1, "the answer came in one event")
    equal("".join(part["choices"][0]["text"] for part in parts), text, "text")


@feature("context overflow")
def context_overflow() -> None:
    body = {**BODY, "prompt": TOO_LONG}
    with router() as url:
        error = raises(urllib.error.HTTPError, lambda: request("/v1/completions", body, url))
    equal(error.code, 400, "status")
    equal(json.loads(error.read())["error"]["code"], "context_length_exceeded", "code")


@feature("cancel")
def cancel() -> None:
    running = "loopserve_num_requests_running"
    with router() as url:
        target = urlsplit(url)
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        endless = {**BODY, "max_tokens": LONG_RUN, "stream": True, "ignore_eos": True}
        connection.request("POST", "/v1/completions", json.dumps(endless), headers)
        connection.getresponse().read(1)
        require(sum(metric(running, one) for one in URLS) == 1, "the request does not run")
        connection.close()
        deadline = time.monotonic() + 5
        while any(metric(running, one) for one in URLS):
            require(time.monotonic() < deadline, "the request still runs 5 s after the client left")
            time.sleep(0.05)


if __name__ == "__main__":
    main("vllm-router")

"""A server that streams prepared events, for tests of the load client."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = {"choices": [{"index": 0, "text": "x"}]}


@dataclass
class Script:
    """What the server does.

    Attributes:
        events: of every stream.
        pause: seconds before each event.
        status: of the answer.
        bodies, keys: of the requests, as they came.
        most_at_once: streams that ran side by side.
    """

    events: list[dict[str, Any]]
    pause: float = 0.0
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    running: int = 0
    most_at_once: int = 0


def answer(tokens: int, prompt: int = 7) -> list[dict[str, Any]]:
    """One event per token, then usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
    return [TOKEN] * tokens + [{"choices": [], "usage": usage}]


@contextmanager
def scripted_server(script: Script) -> Iterator[str]:
    """Serve on a free loopback port; gives the URL."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": "scripted"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                script.bodies.append(body)
                script.keys.append(self.headers["Authorization"])
                script.running += 1
                script.most_at_once = max(script.most_at_once, script.running)
            self.send_response(script.status)
            self.end_headers()
            for event in script.events:
                time.sleep(script.pause)
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
            with lock:
                script.running -= 1

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

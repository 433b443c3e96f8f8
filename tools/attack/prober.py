"""Measures how long a server's health path takes, from a process of its own.

    python -m tools.attack.prober HOST PORT PATH      # until standard input ends; then prints JSON

A process of its own because the attack keeps its own event loop busy, which is not the server's fault.
"""

import json
import select
import socket
import sys
import time

EVERY_SECONDS = 0.1
TIMEOUT_SECONDS = 10.0


def main(host: str, port: int, path: str) -> None:
    """Probe on a new connection each time, as a load balancer does."""
    seconds: list[float] = []
    failures = 0
    while not select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
        started = time.perf_counter()
        if probe(host, port, path):
            seconds.append(time.perf_counter() - started)
        else:
            failures += 1
    print(json.dumps({"seconds": seconds, "failures": failures}))


def probe(host: str, port: int, path: str) -> bool:
    """Whether the path answers with 200 in time."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection((host, port), TIMEOUT_SECONDS) as sock:
            sock.sendall(request)
            return sock.recv(64).split(b" ", 2)[1:2] == [b"200"]
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

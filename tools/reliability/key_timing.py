"""Whether the time of a refusal tells how much of an API key was right.

Wrong keys of the right length are sent by turns over one kept connection: one that shares no leading character with
the real key, one that shares all but the last. Welch's t says how many standard errors the mean times are apart. The
slowest tenth of all samples, where the machine did something else, is cut off before; t of all samples is given, too.
In the control, a little server compares character by character and stops at the first that differs.
"""

import asyncio
import random
import re
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.reliability.failure import ReliabilityError
from tools.reliability.results import Kept, command_line, table, verdict
from tools.reliability.server_process import Launch, running
from tools.reliability.statistics import percentile, welch_t

KEY = "k7Qd0sV2mXw9LrTb4HfYzN6cJ1uEgAqP" * 2
NONE_SHARED = "#" + KEY[1:]
ALL_BUT_ONE_SHARED = KEY[:-1] + "#"
WARM_UP = 50
CROP = 0.9
MAX_T = 3.0
TIMEOUT = 10.0
END = b"\r\n\r\n"
_LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)
OURS, CONTROL = "loopserve", "control"


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes; `samples` are per server, half of them for each key."""

    seed: int
    samples: int = 20_000


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of two refusals, one after the other."""

    server: str
    none_shared: float
    most_shared: float


async def run(launch: Launch, plan: Plan, kept: Kept[Sample]) -> None:
    """Time refusals until there are enough."""
    async with running(Launch(launch.options, launch.command, (KEY,))) as server:
        await asyncio.to_thread(_collect, OURS, server.port, plan, kept)
    with early_exit_server() as port:
        await asyncio.to_thread(_collect, CONTROL, port, plan, kept)


def _collect(name: str, port: int, plan: Plan, kept: Kept[Sample]) -> None:
    rng = random.Random(f"{plan.seed}/{name}")
    connection = _Connection(port)
    for _ in range(WARM_UP):
        connection.refused(NONE_SHARED)
    while sum(sample.server == name for sample in kept.records) < plan.samples // 2:
        times = {key: connection.refused(key) for key in rng.sample((NONE_SHARED, ALL_BUT_ONE_SHARED), 2)}
        kept.add(Sample(name, times[NONE_SHARED], times[ALL_BUT_ONE_SHARED]))


class _Connection:
    """A kept connection, below any client library's noise."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def refused(self, key: str) -> float:
        """Seconds until the refusal of a key came."""
        request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        since = time.perf_counter()
        self._socket.sendall(request)
        answer = self._more()
        seconds = time.perf_counter() - since
        while (length := _LENGTH.search(answer)) is None or len(answer.split(END, 1)[-1]) < int(length[1]):
            answer += self._more()
        if not answer.startswith(b"HTTP/1.1 401 "):
            raise ReliabilityError(f"a wrong key was answered by {answer[:40]!r}")
        return seconds

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ReliabilityError("the server closed the connection")
        return data


@contextmanager
def early_exit_server() -> Iterator[int]:
    """A server as it should not be; yields its port and serves one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve_early_exit, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]


def _serve_early_exit(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        while request := connection.recv(1 << 16):
            given = request.split(b"Bearer ")[1].split(b"\r\n")[0].decode()
            status = b"200 OK" if _equal_early_exit(given, KEY) else b"401 Unauthorized"
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno")


def _equal_early_exit(given: str, right: str) -> bool:
    for a, b in zip(given, right, strict=True):  # noqa: SIM110 - the loop is the point
        if a != b:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Difference:
    """All but the last shared against none shared; microseconds.

    Attributes:
        t: Welch's, without the slowest tenth.
        t_all: of all samples.
        median: difference of the medians.
    """

    samples: int
    t: float
    t_all: float
    median: float

    @classmethod
    def of(cls, samples: list[Sample], server: str) -> "Difference":
        none = [sample.none_shared for sample in samples if sample.server == server]
        most = [sample.most_shared for sample in samples if sample.server == server]
        limit = percentile(none + most, CROP)
        cropped = ([s for s in most if s <= limit], [s for s in none if s <= limit])
        median = statistics.median(most) - statistics.median(none)
        return cls(len(none) + len(most), welch_t(*cropped), welch_t(most, none), median * 1e6)


def problems(samples: list[Sample]) -> list[str]:
    """Broken promises."""
    found = []
    ours, control = Difference.of(samples, OURS), Difference.of(samples, CONTROL)
    for name, t in (("without the slowest tenth", ours.t), ("of all samples", ours.t_all)):
        if abs(t) >= MAX_T:
            found.append(f"the key's leading characters show: t = {t:.1f} {name}")
    if control.t < MAX_T:
        found.append(f"the control shows nothing: t = {control.t:.1f}")
    return found


def page(kept: Kept[Sample], path: Path) -> None:
    """docs/results/key-timing.md."""
    rows = []
    for name, server in (("loopserve", OURS), ("control: early exit", CONTROL)):
        seen = Difference.of(kept.records, server)
        rows.append(
            (name, f"{seen.samples:,}", f"**{seen.t:.1f}**", f"{seen.t_all:.1f}", f"{seen.median:+.2f} µs")
        )
    head = ("", "samples", "t without the slowest tenth", "t of all", "difference of medians")
    path.write_text(f"""# Timing of API keys

    make key-timing
    {command_line()}

{__doc__.strip() if __doc__ else ""}

{table(head, rows)}

Keys have {len(KEY)} characters.

Broken promises (|t| below {MAX_T:g} of loopserve, above in the control):

{verdict(problems(kept.records))}

{kept.provenance()}
""")

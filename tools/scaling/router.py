"""Two servers behind `vllm-router --policy cache_aware`: what comes through it, and where requests go."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tools.reliability.failure import ReliabilityError
from tools.reliability.server_process import Launch, ServerProcess, running
from tools.scaling.findings import Finding, page
from tools.scaling.ports import free_port
from tools.scaling.probes import STREAM_TOKENS, Front, completion, converse, described, until

ROUTER = Path(os.environ.get("VLLM_ROUTER", "build/router/bin/vllm-router"))
VERSION = "vllm-router 0.1.17"
KEY = "sk-scaling-0123456789"
LONG = 1500
HEALTH_SECONDS = 60.0
OPTIONS = ("--policy", "cache_aware", "--health-check-interval-secs", "1")

BAD_REQUESTS: dict[str, Any] = {
    "a negative max_tokens": {"model": "demo", "prompt": "x", "max_tokens": -1},
    "no prompt": {"model": "demo"},
    "an unknown model": {"model": "other", "prompt": "x"},
    "too long a prompt": {"model": "demo", "prompt": "x " * 4000},
    "a wrong type": {"model": "demo", "prompt": "x", "temperature": "hot"},
}


@dataclass(frozen=True, slots=True)
class Backends:
    """The servers behind the router."""

    servers: list[ServerProcess]

    async def answered(self) -> list[float]:
        """How many sequences each has answered."""
        found = [await each.metrics() for each in self.servers]
        return [
            sum(
                value for name, value in metrics.items() if name.startswith("loopserve_request_success_total")
            )
            for metrics in found
        ]


class Watch:
    """Tells which of them answered last, by their own counters."""

    def __init__(self, backends: Backends, before: list[float]) -> None:
        self._backends = backends
        self._before = before

    async def replica(self, answer: httpx.Response) -> str:
        now = await self._backends.answered()
        grown = [index for index, (a, b) in enumerate(zip(self._before, now, strict=True)) if b > a]
        self._before = now
        return ",".join(map(str, grown))


@asynccontextmanager
async def router(urls: list[str], key: str | None = None) -> AsyncIterator[str]:
    """The router in front of these servers, once one request has come through."""
    port = free_port()
    command = [
        str(ROUTER),
        "--worker-urls",
        *urls,
        "--port",
        str(port),
        "--prometheus-port",
        str(free_port()),
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, *OPTIONS], stdout=log, stderr=log)
        front = Front(f"http://127.0.0.1:{port}", key)

        async def answers() -> bool:
            try:
                return (await front.post(completion("x", 1))).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            if await until(answers, 60) is None:
                log.seek(0)
                raise ReliabilityError(
                    f"the router does not pass requests on:\n{log.read().decode()[-2000:]}"
                )
            yield str(front.client.base_url)
        finally:
            await front.client.aclose()
            process.terminate()
            process.wait(20)


async def run() -> str:
    """The whole proof; about two minutes. Returns the page."""
    findings: list[Finding] = []
    async with running(Launch(("--drain-timeout", "1"))) as one, running(Launch()) as two:
        servers = [one, two]
        async with router([_url(each) for each in servers]) as url:
            front = Front(url)
            findings.append(await _streams(front, Front(_url(one))))
            findings.append(await _sticks(front, Backends(servers)))
            findings += await _errors(front, Front(_url(one)))
            findings.append(await _aborts(front, servers))
            findings += await _survives(front, servers)
    findings += await _keys()
    introduction = (
        f"Made by `make router`: two `loopserve serve models/demo` behind `vllm-router {' '.join(OPTIONS)}` "
        f"({VERSION}), on loopback."
    )
    return page("Behind vllm-router", introduction, findings, ["loopserve", "torch"])


def _url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}"


async def _streams(front: Front, direct: Front) -> Finding:
    body = completion("def read_lines(path):", STREAM_TOKENS, ignore_eos=True)
    stream, own = await front.stream(body), await direct.stream(body)
    spread = stream.arrivals[-1] - stream.arrivals[0]
    held = stream.complete and len(stream.arrivals) > STREAM_TOKENS / 4 and spread > stream.arrivals[-1] / 3
    return Finding(
        f"a stream of {STREAM_TOKENS} tokens passes as it is made",
        held,
        f"{stream.described()} (directly: {own.described()})",
    )


async def _sticks(front: Front, backends: Backends) -> Finding:
    watch = Watch(backends, await backends.answered())
    found = await converse(front, watch.replica)
    return Finding(
        "a conversation stays on its server",
        found.sticks and len(found.conversations_per_replica) == 2,
        described(found),
    )


async def _errors(front: Front, direct: Front) -> list[Finding]:
    findings = []
    for name, body in BAD_REQUESTS.items():
        through, own = await front.post(body), await direct.post(body)
        same = (through.status_code, through.content) == (own.status_code, own.content)
        seen = f"{own.status_code}, {len(own.content)} bytes"
        if not same:
            seen += f"; through the router {through.status_code}: `{through.text[:120]}`"
        findings.append(Finding(f"byte for byte: the error for {name}", same, seen))
    return findings


async def _aborts(front: Front, servers: list[ServerProcess]) -> Finding:
    await front.leave_stream(completion("def leave(", LONG, ignore_eos=True), 5)
    left = time.perf_counter()

    async def idle() -> bool:
        found = [await each.metrics() for each in servers]
        return all(metrics["loopserve_requests_in_flight"] == 0 for metrics in found)

    gone = await until(idle, 10, poll=0.02)
    ended = [await each.metrics() for each in servers]
    by_disconnect = sum(
        metrics.get("loopserve_requests_cancelled_total{reason=disconnect}", 0) for metrics in ended
    )
    return Finding(
        "a client that leaves ends its request in the server",
        gone is not None and by_disconnect == 1,
        f"left after 5 of {LONG} tokens; nothing in flight {time.perf_counter() - left:.2f} s later, "
        f"{by_disconnect:.0f} cancelled by disconnect",
    )


async def _survives(front: Front, servers: list[ServerProcess]) -> list[Finding]:
    """kill -9 of one, requests, the same one again on its port."""
    port = servers[0].port
    servers[0].signal(signal.SIGKILL)
    killed = [await front.post(completion(f"def number_{number}(", 4)) for number in range(12)]
    statuses = sorted({answer.status_code for answer in killed})
    async with running(Launch(("--port", str(port)))) as again:

        async def takes_requests() -> bool:
            await asyncio.gather(*[front.post(completion(f"def again_{time.time()}(", 4)) for _ in range(4)])
            return (await Backends([again]).answered())[0] > 0

        back = await until(takes_requests, HEALTH_SECONDS, poll=0.5)
    return [
        Finding(
            "after kill -9 of a server the other answers",
            statuses == [200],
            f"12 requests right after it: statuses {statuses}",
        ),
        Finding(
            "it gets requests again once it is back",
            back is not None,
            "never" if back is None else f"{back:.1f} s after it was ready",
        ),
    ]


async def _keys() -> list[Finding]:
    launch = Launch(keys=(KEY,))
    async with running(launch) as one, running(launch) as two, router([_url(one), _url(two)], KEY) as url:
        known, unknown, own = Front(url, KEY), Front(url), Front(_url(one))
        right = await known.post(completion("x", 1))
        wrong, direct = await unknown.post(completion("x", 1)), await own.post(completion("x", 1))
    same = (wrong.status_code, wrong.content) == (direct.status_code, direct.content)
    return [
        Finding(
            "an API key passes through, and what is said to a client without one",
            right.status_code == 200 and same and wrong.status_code == 401,
            f"{right.status_code} with a key; {wrong.status_code} without, "
            f"{'the same bytes as directly' if same else 'other bytes'}",
        )
    ]

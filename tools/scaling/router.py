"""Two servers behind `vllm-router --policy cache_aware`: what comes through it, and where requests go."""

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from tools.reliability.failure import ReliabilityError
from tools.reliability.server_process import Launch, ServerProcess, running
from tools.scaling.findings import Finding, page
from tools.scaling.ports import free_port
from tools.scaling.probes import AT_ONCE, STREAM_TOKENS, Front, completion, converse, described, until

ROUTER = Path(os.environ.get("VLLM_ROUTER", "build/router/bin/vllm-router"))
VERSION = "vllm-router 0.1.17"
KEY = "sk-scaling-0123456789"
LONG = 1500
ROUNDS = 5
HEALTH_SECONDS = 120.0  # its circuit breaker waits a minute
OPTIONS = ("--policy", "cache_aware", "--health-check-interval-secs", "1")

BAD_REQUESTS: dict[str, Any] = {
    "an unknown model": {"model": "other", "prompt": "x"},
    "too long a prompt": {"prompt": "x " * 4000},
    "more loops than there are": {"prompt": "x", "loops": 9},
    "a schema that is none": {"prompt": "x", "guided_json": {"type": "nothing"}},
}
UNREADABLE: dict[str, Any] = {
    "a negative `max_tokens`": {"prompt": "x", "max_tokens": -1},
    "no `prompt`": {"max_tokens": 1},
    'a `temperature` of "hot"': {"prompt": "x", "temperature": "hot"},
}
"""For the router, which reads requests itself and answers these in the server's place."""


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
                return (await front.post(completion("x", 1, None))).status_code == 200
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
    async with running(_named("one")) as one, running(_named("two")) as two:
        servers = [one, two]
        async with router([_url(each) for each in servers]) as url:
            front = Front(url)
            findings.append(await _streams(front, Front(_url(one))))
            findings.append(await _sticks(front))
            findings += await _errors(front, [Front(_url(each)) for each in servers])
            findings.append(await _unreadable(front))
            findings.append(await _aborts(front, servers))
            findings += await _survives(front, servers)
    findings += await _keys()
    introduction = (
        f"Made by `make router`: two `loopserve serve models/demo` behind `vllm-router {' '.join(OPTIONS)}` "
        f"({VERSION}), on loopback."
    )
    return page("Behind vllm-router", introduction, findings, ["loopserve", "torch"])


def _named(name: str, *options: str) -> Launch:
    """A server that answers with this as its model, if a request names none."""
    return Launch(("--served-model-name", name, *options))


def _answered_by(answer: httpx.Response) -> str:
    return str(answer.json()["model"])


def _url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}"


async def _streams(front: Front, direct: Front) -> Finding:
    """By turns with the server itself, so that what else the machine does is in both."""
    body = completion("def read_lines(path):", STREAM_TOKENS, None, ignore_eos=True)
    streams = [await each.stream(body) for _ in range(ROUNDS + 1) for each in (front, direct)][2:]
    through, own = streams[::2], streams[1::2]
    held = all(each.complete and len(each.arrivals) >= STREAM_TOKENS for each in through)
    seconds, own_seconds = (median(each.arrivals[-1] for each in some) for some in (through, own))
    held = held and all(each.arrivals[-1] - each.arrivals[0] > each.arrivals[-1] / 3 for each in through)
    return Finding(
        f"streams of {STREAM_TOKENS} tokens pass as they are made",
        held,
        f"{ROUNDS} by turns with the server itself: median {1e3 * seconds:.0f} ms, directly {1e3 * own_seconds:.0f} "
        f"ms; the last: {through[-1].described()}",
    )


async def _sticks(front: Front) -> Finding:
    found = await converse(front, _answered_by, model=None)
    return Finding(
        "a conversation stays on its server",
        found.sticks and len(found.conversations_per_replica) == 2,
        described(found),
    )


async def _errors(front: Front, servers: list[Front]) -> list[Finding]:
    """As one of the servers says it; they differ in the name of the model."""
    findings = []
    for name, body in BAD_REQUESTS.items():
        through, own = await front.post(body), [await each.post(body) for each in servers]
        same = (through.status_code, through.content) in [(each.status_code, each.content) for each in own]
        seen = f"{through.status_code}, {len(through.content)} bytes"
        if not same:
            seen += f" instead of {own[0].status_code}, {len(own[0].content)}: `{through.text[:120]}`"
        findings.append(Finding(f"byte for byte: the error for {name}", same, seen))
    return findings


async def _unreadable(front: Front) -> Finding:
    answers = [await front.post(body) for body in UNREADABLE.values()]
    return Finding(
        f"as documented, the router itself refuses {', '.join(UNREADABLE)}",
        all(answer.status_code == 422 for answer in answers),
        f"statuses {[answer.status_code for answer in answers]}, `{answers[0].headers.get('content-type')}`: "
        f"`{answers[0].text[:70]}…`",
    )


async def _aborts(front: Front, servers: list[ServerProcess]) -> Finding:
    await front.leave_stream(completion("def leave(", LONG, None, ignore_eos=True), 5)
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
    killed = [answer for round in range(6) for answer in await _burst(front, f"after the kill {round}")]
    failed = [answer for answer in killed if answer.status_code != 200]
    async with running(_named("one", "--port", str(port))):

        async def takes_requests() -> bool:
            answers = await _burst(front, f"again {time.perf_counter()}")
            return "one" in {_answered_by(answer) for answer in answers if answer.status_code == 200}

        back = await until(takes_requests, HEALTH_SECONDS, poll=0.5)
    return [
        Finding(
            "after kill -9 of a server the other answers",
            len(failed) == 0 and {_answered_by(answer) for answer in killed} == {"two"},
            f"{len(killed)} requests right after it, {AT_ONCE} at once: {len(failed)} failed"
            + (f", the first with {failed[0].status_code} `{failed[0].text[:120]}`" if failed else ""),
        ),
        Finding(
            "it gets requests again once it is back",
            back is not None,
            "never" if back is None else f"{back:.1f} s after it was ready",
        ),
    ]


async def _burst(front: Front, text: str) -> list[httpx.Response]:
    """Requests with nothing in common, at once."""
    bodies = [completion(f"{number} is the number of {text}, " * 8, 4, None) for number in range(AT_ONCE)]
    return await asyncio.gather(*[front.post(body) for body in bodies])


async def _keys() -> list[Finding]:
    launch = Launch(keys=(KEY,))
    async with running(launch) as one, running(launch) as two, router([_url(one), _url(two)], KEY) as url:
        known, unknown, own = Front(url, KEY), Front(url), Front(_url(one))
        right = await known.post(completion("x", 1, None))
        wrong, direct = await unknown.post(completion("x", 1, None)), await own.post(completion("x", 1, None))
    same = (wrong.status_code, wrong.content) == (direct.status_code, direct.content)
    return [
        Finding(
            "an API key passes through, and what is said to a client without one",
            right.status_code == 200 and same and wrong.status_code == 401,
            f"{right.status_code} with a key; {wrong.status_code} without, "
            f"{'the same bytes as directly' if same else 'other bytes'}",
        )
    ]

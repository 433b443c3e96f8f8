"""Two replicas on Ray Serve: what deploy/ray_serve_app.py promises, tried."""

import asyncio
import itertools
import signal
import time
from collections.abc import Mapping

import httpx
import psutil

from tools.scaling.findings import Finding, page
from tools.scaling.ports import free_port
from tools.scaling.probes import (
    STREAM_TOKENS,
    Body,
    Front,
    completion,
    converse,
    described,
    until,
)
from tools.scaling.ray_cluster import Cluster, cluster

START_SECONDS = 300.0  # a machine that never ran it compiles the kernels first
COME_BACK_SECONDS = 60.0
SCALE_SECONDS = 60.0
LONG = 1500
"""Tokens of a stream that is still under way when something happens to it."""

TWO = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.5}, "health_check_period_s": 1}
ELASTIC = {
    "max_ongoing_requests": 8,
    "ray_actor_options": {"num_cpus": 0.5},
    "autoscaling_config": {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 1,
        "downscale_delay_s": 3,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 2,
    },
}


async def run() -> str:
    """The whole proof; a few minutes. Returns the page."""
    findings: list[Finding] = []
    with cluster(port := free_port(), TWO) as running:
        front = Front(f"http://127.0.0.1:{port}")
        findings += [await _starts(front, running)]
        findings += [await _streams(front)]
        findings += await _sticks(front)
        findings += [await _keeps_errors(front)]
        findings += [await _aborts(front, running)]
        findings += await _survives(front, running)
        await front.client.aclose()
        begun = time.perf_counter()
        gone = running.end()
        findings.append(
            Finding("Ctrl-C ends everything, engines too", gone, f"after {time.perf_counter() - begun:.1f} s")
        )
    with cluster(port := free_port(), ELASTIC) as running:
        front = Front(f"http://127.0.0.1:{port}")
        findings += await _scales(front, running)
        await front.client.aclose()
    introduction = (
        "Made by `make ray-serve`: `deploy/ray_serve.yaml` with the demo model and two replicas, under `serve run`, "
        "asked through Ray's proxy on loopback."
    )
    return page("On Ray Serve", introduction, findings, ["loopserve", "ray", "torch"])


def _served_by(answer: httpx.Response) -> str:
    return answer.headers["x-served-by"]


async def _replica(answer: httpx.Response) -> str:
    return _served_by(answer)


async def _starts(front: Front, running: Cluster) -> Finding:
    async def two_ready() -> bool:
        return await front.is_ready() and len(running.engines()) == 2 and len(await _alive(front)) == 2

    seconds = await until(two_ready, START_SECONDS)
    if seconds is None:
        raise RuntimeError(f"two replicas don't get ready:\n{running.log.read_text()[-3000:]}")
    return Finding("two replicas start", True, f"both answered {seconds:.0f} s after `serve run`")


async def _alive(front: Front) -> set[str]:
    """The replicas that answer; requests with a session of their own meet any."""
    return {
        _served_by(await front.client.get("/health", headers={"x-session-id": str(number)}))
        for number in range(16)
    }


async def _streams(front: Front) -> Finding:
    await front.stream(completion("def warm_up(", 8))
    stream = await front.stream(completion("def read_lines(path):", STREAM_TOKENS, ignore_eos=True))
    # One part per token or a few: an answer that were collected first would come all at once.
    spread = stream.arrivals[-1] - stream.arrivals[0]
    held = stream.complete and len(stream.arrivals) > STREAM_TOKENS / 4 and spread > stream.arrivals[-1] / 3
    return Finding(
        f"a stream of {STREAM_TOKENS} tokens passes the proxy as it is made", held, stream.described()
    )


async def _sticks(front: Front) -> list[Finding]:
    fresh = itertools.count()

    def by_header(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {"x-session-id": f"header-{conversation}"}, {}

    def by_cache_key(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {}, {"prompt_cache_key": f"key-{conversation}"}

    def by_user(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {}, {"user": f"user-{conversation}"}

    def nowhere(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {"x-session-id": f"fresh-{next(fresh)}"}, {"cache_salt": "other"}

    found = [
        ("by nothing but how it begins", await converse(front, _replica)),
        *[
            (
                f"by {name}",
                await converse(
                    front, _served_by, lambda c, t, told=told, name=name: _salted(told(c, t), name)
                ),
            )
            for name, told in (
                ("`X-Session-ID`", by_header),
                ("`prompt_cache_key`", by_cache_key),
                ("`user`", by_user),
            )
        ],
    ]
    findings = [
        Finding(
            f"a conversation stays on its replica, {name}",
            each.sticks and len(each.conversations_per_replica) == 2,
            described(each),
        )
        for name, each in found
    ]
    spread = await converse(front, _replica, nowhere)
    findings.append(
        Finding(
            "for comparison: the same with a new session for every request",
            not spread.sticks and spread.cached_share < found[0][1].cached_share,
            described(spread),
        )
    )
    return findings


def _salted(told: tuple[Mapping[str, str], Body], salt: str) -> tuple[Mapping[str, str], Body]:
    """Apart from the cache of the run before."""
    headers, fields = told
    return headers, {**fields, "cache_salt": salt}


async def _keeps_errors(front: Front) -> Finding:
    answer = await front.post({"model": "demo", "prompt": "x", "max_tokens": -1})
    missing = await front.client.get("/v1/nothing")
    statuses = (answer.status_code, missing.status_code)
    codes = [each.json()["error"]["code"] for each in (answer, missing)]
    held = statuses == (400, 404) and "x-served-by" in answer.headers
    return Finding("errors are the server's own", held, f"{statuses}, codes {codes}")


async def _aborts(front: Front, running: Cluster) -> Finding:
    headers = {"x-session-id": "leaver"}
    await front.leave_stream(completion("def leave(", LONG, ignore_eos=True), 5, headers)

    async def idle() -> bool:
        metrics = (await front.client.get("/metrics", headers=headers)).text
        return (
            "loopserve_num_requests_running 0.0" in metrics and "loopserve_requests_in_flight 0.0" in metrics
        )

    seconds = await until(idle, 10, poll=0.02)
    metrics = (await front.client.get("/metrics", headers=headers)).text
    aborted = [
        line for line in metrics.splitlines() if 'finished_reason="abort' in line and not line.startswith("#")
    ]
    seen = f"a client left after 5 of {LONG} tokens; the engine had nothing in flight {seconds} s later"
    if seconds is not None:
        seen = seen.replace(str(seconds), f"{seconds:.2f}")
    return Finding(
        "a client that leaves ends its request in the engine",
        seconds is not None and bool(aborted),
        f"{seen}; `{aborted[:1]}`",
    )


async def _survives(front: Front, running: Cluster) -> list[Finding]:
    """Kill -9 of one replica with a stream on each."""
    sessions = {}
    for number in range(64):
        headers = {"x-session-id": f"survivor-{number}"}
        sessions[_served_by(await front.client.get("/health", headers=headers))] = headers
    assert len(sessions) == 2
    body = completion("def survive(", LONG, ignore_eos=True)
    streams = {name: asyncio.create_task(front.stream(body, headers)) for name, headers in sessions.items()}
    await asyncio.sleep(0.5)
    victim = running.replicas()[0]
    engines = [
        child.pid for child in victim.children() if "engine.engine_process" in " ".join(child.cmdline())
    ]
    victim.send_signal(signal.SIGKILL)
    killed = time.perf_counter()
    answers = [(await front.post(completion("def go_on(", 4), headers)) for headers in sessions.values()]
    first_answers = time.perf_counter() - killed
    done = [await stream for stream in streams.values()]
    complete = sum(stream.complete for stream in done)

    async def engine_gone() -> bool:
        return all(pid not in running_pids() for pid in engines)

    def running_pids() -> set[int]:
        return {each.pid for each in psutil.process_iter() if each.status() != psutil.STATUS_ZOMBIE}

    gone = await until(engine_gone, 30)

    async def two_again() -> bool:
        return len(running.engines()) == 2 and len(await _alive(front)) == 2

    back = await until(two_again, COME_BACK_SECONDS, poll=0.5)
    statuses = sorted(answer.status_code for answer in answers)
    return [
        Finding(
            "kill -9 of a replica cuts its stream only",
            complete == 1 and not all(s.complete for s in done),
            f"{complete} of 2 streams whole",
        ),
        Finding(
            "the other answers in its place",
            all(status in (200, 500, 503) for status in statuses) and 200 in statuses,
            f"right after it, requests of both sessions: {statuses}, in {first_answers:.1f} s together",
        ),
        Finding(
            "its engine process ends too",
            gone is not None,
            f"{gone if gone is None else round(gone, 1)} s later",
        ),
        Finding(
            "Ray starts another",
            back is not None,
            f"two answered again after {back if back is None else round(back)} s",
        ),
    ]


async def _scales(front: Front, running: Cluster) -> list[Finding]:
    """More load than one replica is meant for, then none."""
    if await until(front.is_ready, START_SECONDS) is None:
        raise RuntimeError(f"one replica doesn't get ready:\n{running.log.read_text()[-3000:]}")
    statuses: list[bool] = []
    enough = asyncio.Event()

    async def client(number: int) -> None:
        while not enough.is_set():
            stream = await front.stream(completion(f"def client_{number}(", 200, ignore_eos=True))
            statuses.append(stream.complete)

    clients = [asyncio.create_task(client(number)) for number in range(8)]

    async def two() -> bool:
        return len(running.engines()) == 2 and len(await _alive(front)) == 2

    async def one() -> bool:
        return len(running.replicas()) == 1

    up = await until(two, SCALE_SECONDS, poll=0.5)
    await asyncio.sleep(3)
    enough.set()
    await asyncio.gather(*clients)
    down = await until(one, SCALE_SECONDS, poll=0.5)
    ready = await front.is_ready()
    return [
        Finding(
            "load brings a second replica",
            up is not None,
            f"8 streams at once, 2 per replica wanted: two answered after {up if up is None else round(up)} s",
        ),
        Finding(
            "no request fails meanwhile", all(statuses), f"{sum(statuses)} of {len(statuses)} streams whole"
        ),
        Finding(
            "and its end takes it away",
            down is not None and ready,
            f"{down if down is None else round(down)} s after the last request; the other is ready",
        ),
    ]

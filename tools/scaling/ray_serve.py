"""Two replicas on Ray Serve: what deploy/ray_serve_app.py promises, tried."""

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Mapping

import httpx
import psutil

from tools.reliability.server_process import is_alive
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
KEY = "sk-scaling-0123456789"
LAST = 500
"""Tokens of the streams that are under way when a replica is told to go."""
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
        findings += [await _aborts(front)]
        findings += await _survives(front, running)
        findings += await _restarts(front, running)
        await front.client.aclose()
        begun = time.perf_counter()
        gone = running.end()
        findings.append(
            Finding("Ctrl-C ends everything, engines too", gone, f"after {time.perf_counter() - begun:.1f} s")
        )
    with cluster(port := free_port(), ELASTIC, KEY) as running:
        front = Front(f"http://127.0.0.1:{port}", KEY)
        findings += await _scales(front, running)
        findings.append(await _asks_for_keys(front))
        await front.client.aclose()
    introduction = (
        "Made by `make ray-serve`: `deploy/ray_serve.yaml` with the demo model and two replicas, under `serve run`, "
        "asked through Ray's proxy on loopback."
    )
    return page("On Ray Serve", introduction, findings, ["loopserve", "ray", "torch"])


def _served_by(answer: httpx.Response) -> str:
    return answer.headers["x-served-by"]


async def _starts(front: Front, running: Cluster) -> Finding:
    seconds = await until(_two_answer(front, running), START_SECONDS)
    if seconds is None:
        raise RuntimeError(f"two replicas don't get ready:\n{running.log.read_text()[-3000:]}")
    return Finding("two replicas start", True, f"both answered {seconds:.0f} s after `serve run`")


async def _alive(front: Front) -> set[str]:
    """The replicas that answer; requests with a session of their own meet any."""
    return {
        _served_by(await front.client.get("/health", headers={"x-session-id": str(number)}))
        for number in range(32)
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

    # Each in a cache of its own.
    def by_header(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {"x-session-id": f"header-{conversation}"}, {"cache_salt": "header"}

    def by_cache_key(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {}, {"prompt_cache_key": f"key-{conversation}", "cache_salt": "key"}

    def by_user(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {}, {"user": f"user-{conversation}", "cache_salt": "user"}

    def nowhere(conversation: int, turn: int) -> tuple[Mapping[str, str], Body]:
        return {"x-session-id": f"fresh-{next(fresh)}"}, {"cache_salt": "fresh"}

    found = {"nothing but how it begins": await converse(front, _served_by)}
    for name, told in (
        ("`X-Session-ID`", by_header),
        ("`prompt_cache_key`", by_cache_key),
        ("`user`", by_user),
    ):
        found[name] = await converse(front, _served_by, told)
    findings = [
        Finding(
            f"a conversation stays on its replica, by {name}",
            each.sticks and len(each.conversations_per_replica) == 2,
            described(each),
        )
        for name, each in found.items()
    ]
    spread = await converse(front, _served_by, nowhere)
    findings.append(
        Finding(
            "for comparison: the same with a new session for every request",
            not spread.sticks and spread.cached_share < min(each.cached_share for each in found.values()),
            described(spread),
        )
    )
    return findings


async def _keeps_errors(front: Front) -> Finding:
    answers = [await front.post({"model": "demo", "prompt": "x", "max_tokens": -1})]
    answers.append(await front.client.get("/v1/nothing"))
    errors = [answer.json()["error"] for answer in answers]
    held = [answer.status_code for answer in answers] == [400, 404]
    held = (
        held and errors[0]["param"] == "max_tokens" and all("x-served-by" in each.headers for each in answers)
    )
    return Finding("errors are the server's own", held, "; ".join(each["message"] for each in errors))


async def _aborts(front: Front) -> Finding:
    headers = {"x-session-id": "leaver"}
    await front.leave_stream(completion("def leave(", LONG, ignore_eos=True), 5, headers)

    async def ended() -> bool:
        metrics = (await front.client.get("/metrics", headers=headers)).text
        return (
            "\nloopserve_num_requests_running 0.0\n" in metrics
            and "\nloopserve_requests_in_flight 0.0\n" in metrics
            and '\nloopserve_requests_cancelled_total{reason="disconnect"} 1.0\n' in metrics
        )

    seconds = await until(ended, 10, poll=0.02)
    return Finding(
        "a client that leaves ends its request in the engine",
        seconds is not None,
        f"left after 5 of {LONG} tokens; nothing in flight, one request cancelled by disconnect, {_after(seconds)}",
    )


async def _survives(front: Front, running: Cluster) -> list[Finding]:
    """kill -9 of one replica, with a stream on each."""
    sessions = await _session_of_each(front)
    body = completion("def survive(", LONG, ignore_eos=True)
    streams = [asyncio.create_task(front.stream(body, headers)) for headers in sessions.values()]
    await asyncio.sleep(0.5)
    victim = running.replicas()[0]
    engine = next(pid for pid in running.engines() if psutil.Process(pid).ppid() == victim.pid)
    victim.send_signal(signal.SIGKILL)
    watching = [
        asyncio.create_task(until(condition, COME_BACK_SECONDS))
        for condition in (_gone(engine), _two_answer(front, running, without=victim.pid))
    ]
    begun = time.perf_counter()
    answers = [await front.post(completion("def go_on(", 4), headers) for headers in sessions.values()]
    answered = time.perf_counter() - begun
    whole = sum([(await stream).complete for stream in streams])
    gone, back = [await each for each in watching]
    statuses = [answer.status_code for answer in answers]
    return [
        Finding("kill -9 of a replica cuts its own stream only", whole == 1, f"{whole} of 2 streams whole"),
        Finding(
            "the other answers in its place",
            statuses == [200, 200],
            f"one request of each session, at once: {statuses}, together in {answered:.1f} s",
        ),
        Finding("its engine process ends too", gone is not None, _after(gone)),
        Finding("Ray starts another", back is not None, f"two answered again {_after(back)}"),
    ]


async def _restarts(front: Front, running: Cluster) -> list[Finding]:
    """kill -9 of an engine process: the server's own business, not Ray's."""
    before = {each.pid for each in running.replicas()}
    victim = running.engines()[0]
    sessions = await _session_of_each(front)
    psutil.Process(victim).send_signal(signal.SIGKILL)
    statuses: list[int] = []

    async def all_answer() -> bool:
        found = [(await front.post(completion("x", 1), headers)).status_code for headers in sessions.values()]
        statuses.extend(found)
        return set(found) == {200} and victim not in running.engines() and len(running.engines()) == 2

    back = await until(all_answer, COME_BACK_SECONDS)
    same = {each.pid for each in running.replicas()} == before
    return [
        Finding(
            "an engine that dies is started again inside its replica",
            back is not None and same and set(statuses) <= {200, 500, 503},
            f"both answered {_after(back)}; {statuses.count(200)} requests got 200, "
            f"{len(statuses) - statuses.count(200)} a 500 or 503; Ray replaced {'none' if same else 'a replica'}",
        )
    ]


async def _session_of_each(front: Front) -> dict[str, dict[str, str]]:
    """Headers that lead to each of two replicas."""
    sessions: dict[str, dict[str, str]] = {}
    for number in range(64):
        headers = {"x-session-id": f"to-each-{number}"}
        sessions[_served_by(await front.client.get("/health", headers=headers))] = headers
    if len(sessions) != 2:
        raise RuntimeError(f"{len(sessions)} replicas answer")
    return sessions


def _gone(pid: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return not is_alive(pid)

    return condition


def _two_answer(front: Front, running: Cluster, without: int = 0) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        pids = {each.pid for each in running.replicas()}
        return len(pids - {without}) == 2 and len(running.engines()) == 2 and len(await _alive(front)) == 2

    return condition


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s later"


async def _scales(front: Front, running: Cluster) -> list[Finding]:
    """More load than one replica is meant for; then a stream on each, which is less."""
    if await until(front.is_ready, START_SECONDS) is None:
        raise RuntimeError(f"one replica doesn't get ready:\n{running.log.read_text()[-3000:]}")
    whole: list[bool] = []
    enough = asyncio.Event()

    async def client(number: int) -> None:
        while not enough.is_set():
            whole.append(
                (await front.stream(completion(f"def client_{number}(", 200, ignore_eos=True))).complete
            )

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    up = await until(_two_answer(front, running), SCALE_SECONDS, poll=0.5)
    enough.set()
    await asyncio.gather(*clients)
    kept: list[bool] = []
    one_left = asyncio.Event()

    async def steady(headers: Mapping[str, str]) -> None:
        while not one_left.is_set():
            kept.append(
                (await front.stream(completion("def last(", LAST, ignore_eos=True), headers)).complete
            )

    last = [asyncio.create_task(steady(headers)) for headers in (await _session_of_each(front)).values()]

    async def one() -> bool:
        return len(running.replicas()) == 1

    down = await until(one, SCALE_SECONDS, poll=0.2)
    one_left.set()
    await asyncio.gather(*last)
    return [
        Finding(
            "load brings a second replica", up is not None, f"8 streams, 2 per replica wanted: {_after(up)}"
        ),
        Finding("no request fails meanwhile", all(whole), f"{sum(whole)} of {len(whole)} streams whole"),
        Finding("less load takes one away", down is not None and await front.is_ready(), _after(down)),
        Finding(
            "which finishes its stream first",
            all(kept),
            f"a client on each replica that asked without pause until one was left: {sum(kept)} of {len(kept)} "
            f"streams of {LAST} tokens whole",
        ),
    ]


async def _asks_for_keys(front: Front) -> Finding:
    async with httpx.AsyncClient(base_url=front.client.base_url) as nobody:
        refused = await nobody.post("/v1/completions", json=completion("x", 1))
        probe = await nobody.get("/ready")
    known = await front.post(completion("x", 1))
    held = (refused.status_code, probe.status_code, known.status_code) == (401, 200, 200)
    return Finding(
        "an API key is asked for before a replica is",
        held and "x-served-by" not in refused.headers,
        f"{refused.status_code} without, {known.status_code} with; `/ready` {probe.status_code} without",
    )

"""What a server holds: sequences, cache blocks, open files, threads, memory. Taken before and after an attack."""

import asyncio
import re
import time
from dataclasses import dataclass, replace

import psutil

from tools.attack.target import Dialect, Target, whole_answer

SETTLE_SECONDS = 15.0
QUIET_SECONDS = 2.0
MAX_GROWTH_BYTES = 16 << 20
GAUGES = {
    Dialect.LOOPSERVE: {
        "running": "loopserve_num_requests_running",
        "waiting": "loopserve_num_requests_waiting",
        "blocks": 'loopserve_kv_cache_blocks{state="used"}',
        "restarts": "loopserve_engine_restarts_total",
    },
    Dialect.VLLM: {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "blocks": "vllm:kv_cache_usage_perc",
    },
    Dialect.LLAMA_CPP: {"running": "llamacpp:requests_processing", "waiting": "llamacpp:requests_deferred"},
}
"""Series that are 0 on an idle server, except restarts."""


@dataclass(frozen=True, slots=True)
class Footing:
    """One look. None is what can't be known.

    Attributes:
        blocks: cache blocks of living sequences (vLLM: a share).
        pids: of the server's processes, with their start times.
        rss: bytes of all processes together.
    """

    running: float | None = None
    waiting: float | None = None
    blocks: float | None = None
    restarts: float | None = None
    pids: tuple[tuple[int, float], ...] = ()
    fds: int | None = None
    threads: int | None = None
    rss: int | None = None

    @property
    def idle(self) -> bool:
        """Nothing runs, waits or holds a block, as far as the server says."""
        return not any((self.running, self.waiting, self.blocks))


async def look(target: Target, pid: int | None) -> Footing:
    """What the server holds now."""
    values = await _gauges(target)
    if pid is None:
        return values
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return replace(
            values,
            pids=tuple(sorted((process.pid, process.create_time()) for process in tree)),
            fds=sum(process.num_fds() for process in tree),
            threads=sum(process.num_threads() for process in tree),
            rss=sum(process.memory_info().rss for process in tree),
        )
    except psutil.NoSuchProcess:
        return values


async def settled(target: Target, pid: int | None, before: Footing | None = None) -> Footing:
    """Wait until the server is idle and back where it was, or as long as it may take for that."""
    await asyncio.sleep(QUIET_SECONDS)
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = await look(target, pid)
        if (now.idle and (before is None or not differences(before, now))) or time.monotonic() > deadline:
            return now
        await asyncio.sleep(0.5)


def differences(before: Footing, after: Footing) -> list[str]:
    """What is not as it was."""
    found = []
    for name in ("running", "waiting", "blocks"):
        if getattr(after, name):
            found.append(f"{name}: {getattr(after, name):g}")
    if after.pids != before.pids:
        found.append("other processes")
    if after.restarts != before.restarts:
        found.append(f"engine restarts: {after.restarts}")
    for name in ("fds", "threads"):
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None and new > old:
            found.append(f"{name}: {old} → {new}")
    if before.rss is not None and after.rss is not None and after.rss - before.rss > MAX_GROWTH_BYTES:
        found.append(f"memory: +{(after.rss - before.rss) / 2**20:.0f} MiB")
    return found


async def _gauges(target: Target) -> Footing:
    series = GAUGES.get(target.dialect, {})
    answer = whole_answer(await target.ask(target.get("/metrics"))) if series else None
    if answer is None or answer.status != 200:
        return Footing()
    found = gauges(answer.body.decode("utf-8", "replace"), series)
    running, waiting, blocks, restarts = map(found.get, ("running", "waiting", "blocks", "restarts"))
    return Footing(running, waiting, blocks, restarts)


def gauges(text: str, series: dict[str, str]) -> dict[str, float]:
    """The named series of a Prometheus text, summed over labels that aren't part of the name."""
    found: dict[str, float] = {}
    for name, wanted in series.items():
        pattern = re.escape(wanted) + (r"(?:\{[^}]*\})?" if "{" not in wanted else "") + r" (\S+)$"
        values = re.findall("^" + pattern, text, re.MULTILINE)
        if values:
            found[name] = sum(map(float, values))
    return found

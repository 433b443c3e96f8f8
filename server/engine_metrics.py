"""Exports the engine's own counts. Read from its latest stats when Prometheus asks, so steps pay nothing for it."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.messages import EngineReady, EngineStats
from server.admission import Admission
from server.engine_client import EngineState
from server.loop_metrics import memory_series, signal_series


class EngineSource(Protocol):
    """Where the counts come from; `server.engine_client.EngineClient` is one."""

    info: EngineReady | None
    restarts_total: int

    @property
    def state(self) -> EngineState: ...

    @property
    def stats(self) -> EngineStats: ...

    @property
    def in_flight(self) -> int: ...

    @property
    def admission(self) -> Admission: ...


class EngineCollector(Collector):
    """A Prometheus collector over the engine's stats."""

    def __init__(self, source: EngineSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        yield _gauge("engine_up", "1 if the engine takes requests.", self._source.state is EngineState.READY)
        yield _gauge("requests_in_flight", "Sequences between arrival and end.", self._source.in_flight)
        yield _counter("engine_restarts", "Restarts of the engine.", self._source.restarts_total)
        yield _gauge(
            "num_tokens_waiting",
            "Prompt tokens of sequences that the scheduler has not taken up.",
            self._source.admission.waiting_tokens,
        )
        stats = self._source.stats
        yield from _stats(stats)
        yield from signal_series(stats.signals)
        if self._source.info is not None:
            yield from _layout(self._source.info)
            yield from memory_series(self._source.info, stats)


def _stats(stats: EngineStats) -> Iterator[Metric]:
    yield _gauge("num_requests_running", "Sequences running.", stats.running)
    yield _gauge("num_requests_waiting", "Sequences waiting.", stats.waiting)
    usage = stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0
    yield _gauge("kv_cache_usage_perc", "Share of cache blocks held by live sequences, 0 to 1.", usage)
    free = stats.blocks_total - stats.blocks_used - stats.blocks_cached
    yield _labelled_gauge(
        "kv_cache_blocks",
        "Cache blocks by state; cached ones are reusable and evictable.",
        "state",
        {"used": stats.blocks_used, "cached": stats.blocks_cached, "free": free},
    )
    yield _labelled_gauge(
        "kv_cache_blocks_used",
        "Cache blocks of live sequences by group.",
        "group",
        {
            "shared": stats.shared_blocks_used,
            "window": stats.window_blocks_used,
            "own": stats.own_blocks_used,
        },
    )
    yield _counter("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_query_tokens_total)
    yield _counter("prefix_cache_hits", "Prompt tokens found.", stats.prefix_hit_tokens_total)
    yield _counter("num_preemptions", "Sequences preempted.", stats.preemptions_total)
    yield _counter("engine_steps", "Forward passes.", stats.steps_total)
    yield _counter(
        "engine_isolated_errors",
        "Requests ended by an internal error that was kept from the others.",
        stats.isolated_errors_total,
    )
    rows = CounterMetricFamily("loopserve_rows", "Rows computed, by loop.", labels=["loop"])
    for loop, count in enumerate(stats.rows_total):
        rows.add_metric([str(loop)], count)
    yield rows


def _layout(info: EngineReady) -> Iterator[Metric]:
    yield _labelled_gauge(
        "kv_bytes_per_token",
        "K/V bytes per token of context: as stored, and with every loop's whole context.",
        "layout",
        {"shared": info.kv_bytes_per_token, "sequential": info.kv_bytes_per_token_sequential},
    )
    yield _gauge("kv_bytes_per_sequence", "Window and carry bytes per sequence.", info.kv_bytes_per_sequence)
    if info.batch_invariant is not None:
        yield _gauge(
            "batch_invariant",
            "1 if a request got the same bits alone and in a crowd when the engine tried at its start.",
            info.batch_invariant,
        )
    config = GaugeMetricFamily(
        "loopserve_cache_config_info",
        "Shape of the cache.",
        labels=["block_size", "num_blocks", "num_loops", "execution", "max_model_len"],
    )
    labels = (info.block_size, info.num_blocks, info.num_loops, info.execution, info.max_model_len)
    config.add_metric([str(label) for label in labels], 1)
    yield config


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"loopserve_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"loopserve_{name}", text, value=float(value))


def _labelled_gauge(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"loopserve_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family

"""Metrics: what is counted when, and that a Prometheus parser reads it."""

import asyncio
from typing import get_args

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from engine.messages import CacheSizes, CacheUse, EngineReady, EngineStats, LoopSignals, StepShape
from server.admission import Admission, AdmissionLimits
from server.engine_client import EngineState
from server.engine_metrics import EngineCollector
from server.errors import RequestTimeoutError, UnavailableError
from server.http_metrics import HttpMetricsMiddleware, HttpSeries
from server.metrics import ServerMetrics
from server.request_metrics import CancelReason
from tests.engine.fake_core import FakeCore
from tests.server.asgi import call, echo


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeSource:
    def __init__(self, info: EngineReady | None, stats: EngineStats) -> None:
        self.info = info
        self.restarts_total = 2
        self.state = EngineState.READY
        self.stats = stats
        self.in_flight = 4
        self.admission = Admission(AdmissionLimits(9, 99))
        self.admission.enter(17)


STATS = EngineStats(
    running=3,
    waiting=1,
    blocks_total=100,
    blocks_used=25,
    blocks_cached=15,
    shared_blocks_used=20,
    window_blocks_used=5,
    preemptions_total=6,
    prefix_query_tokens_total=70,
    prefix_hit_tokens_total=30,
    steps_total=9,
    rows_total=[11, 7],
    cache=CacheUse(blocks=[20, 5], sequential_blocks=36, carry_slots=[4], tokens=250),
    signals=LoopSignals(tokens=[0, 8], gates=[0.0, 5.5], changes=[0.0, 2.25], token_changes=[0, 3]),
)
SIZES = CacheSizes(kv_block=1600, block_hidden=100, carry_slot=90, window_blocks=2)


def value(metrics: ServerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"loopserve_{name}", labels)


def test_a_completed_request() -> None:
    clock = Clock()
    metrics = ServerMetrics("1", clock)
    with metrics.request() as request:
        request.on_start(prompt_tokens=12)
        clock.now = 0.5
        request.on_token(1, cached_tokens=4)
        clock.now = 0.7
        request.on_token(2, cached_tokens=4)
        request.on_token(0)
        clock.now = 1.0
        request.on_finish("stop")
        request.on_finish("error")
    assert value(metrics, "request_success_total", finished_reason="stop") == 1
    assert value(metrics, "request_success_total", finished_reason="error") == 0
    assert value(metrics, "request_success_total", finished_reason="abort") == 0
    assert (value(metrics, "prompt_tokens_total"), value(metrics, "generation_tokens_total")) == (12, 3)
    assert value(metrics, "time_to_first_token_seconds_sum") == 0.5
    assert value(metrics, "inter_token_latency_seconds_sum") == pytest.approx(0.1)
    assert value(metrics, "e2e_request_latency_seconds_sum") == 1.0
    assert value(metrics, "prompt_tokens_cached_total") == 4
    assert value(metrics, "request_decode_time_seconds_sum") == pytest.approx(0.2)
    assert value(metrics, "request_time_per_output_token_seconds_sum") == pytest.approx(0.1)
    assert cancelled(metrics) == {}


def cancelled(metrics: ServerMetrics) -> dict[str, float]:
    """Counts above zero."""
    counts = {
        reason: value(metrics, "requests_cancelled_total", reason=reason) for reason in get_args(CancelReason)
    }
    return {reason: count for reason, count in counts.items() if count}


@pytest.mark.parametrize(
    ("error", "reason", "cancelled_by"),
    [
        (ValueError(), "error", {}),
        (type("PanicException", (BaseException,), {})(), "error", {}),  # as pyo3 makes them
        (asyncio.CancelledError(), "abort", {"disconnect": 1}),
        (GeneratorExit(), "abort", {"disconnect": 1}),
        (RequestTimeoutError("late"), "error", {"timeout": 1}),
        (UnavailableError("shutting down", retry_after=1), "error", {"drain": 1}),
        (UnavailableError("late", retry_after=1, code="queue_timeout"), "error", {}),
    ],
)
def test_a_request_left_by_an_exception_is_counted(
    error: BaseException, reason: str, cancelled_by: dict[str, float]
) -> None:
    metrics = ServerMetrics("1")
    with pytest.raises(type(error)), metrics.request():
        raise error
    assert value(metrics, "request_success_total", finished_reason=reason) == 1
    assert value(metrics, "e2e_request_latency_seconds_count") == 0
    assert cancelled(metrics) == cancelled_by


def test_a_request_that_ended_by_itself_was_not_cancelled() -> None:
    metrics = ServerMetrics("1")
    error = GeneratorExit()
    request = metrics.request()
    request.on_finish("stop")
    request.__exit__(GeneratorExit, error, None)
    assert cancelled(metrics) == {}


def test_steps_by_phase_and_rows_by_loop() -> None:
    metrics = ServerMetrics("1")
    metrics.on_step(0.5, StepShape(phase="mixed", rows=[9, 0, 2]))
    metrics.on_step(0.25, StepShape(phase="decode", rows=[1, 1, 1]))
    metrics.on_step(0.1, StepShape())  # nothing was computed
    assert value(metrics, "step_seconds_sum", phase="mixed") == 0.5
    assert value(metrics, "step_seconds_count", phase="decode") == 1
    assert value(metrics, "step_seconds_count", phase="prefill") == 0
    sums = [value(metrics, "step_rows_sum", loop=loop) for loop in "012"]
    assert sums == [10, 1, 3]
    assert value(metrics, "step_rows_count", loop="1") == 1, (
        "a step without rows of the loop is no step of it"
    )


def test_engine_counts_are_exported_and_everything_parses() -> None:
    metrics = ServerMetrics("1.2.3")
    metrics.registry.register(EngineCollector(FakeSource(FakeCore().ready(), STATS)))
    HttpSeries(metrics.registry, metrics.bounds)
    expected = {
        ("num_requests_running",): 3,
        ("num_requests_waiting",): 1,
        ("requests_in_flight",): 4,
        ("num_tokens_waiting",): 17,
        ("kv_cache_usage_perc",): 0.25,
        ("kv_cache_blocks", "used"): 25,
        ("kv_cache_blocks", "cached"): 15,
        ("kv_cache_blocks", "free"): 60,
        ("kv_cache_blocks_used", "shared"): 20,
        ("kv_cache_blocks_used", "window"): 5,
        ("num_preemptions_total",): 6,
        ("prefix_cache_queries_total",): 70,
        ("prefix_cache_hits_total",): 30,
        ("engine_steps_total",): 9,
        ("engine_restarts_total",): 2,
        ("engine_up",): 1,
        ("rows_total", "0"): 11,
        ("rows_total", "1"): 7,
        ("kv_bytes_per_token", "shared"): 100,
        ("kv_bytes_per_token", "sequential"): 200,
        ("kv_bytes_per_sequence",): 50,
    }
    for families in (
        list(parse(generate_latest(metrics.registry).decode())),
        list(parse_openmetrics(generate_openmetrics(metrics.registry).decode())),
    ):
        samples = {
            (sample.name.removeprefix("loopserve_"), *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }
        assert {key: samples.get(key) for key in expected} == expected
        assert all(family.name.startswith("loopserve_") for family in families)
        assert all(family.documentation for family in families)


def test_memory_and_signals_by_loop() -> None:
    """A pool of 100 blocks of 16 tokens; a token's K/V take 100 bytes."""
    info = msgspec.structs.replace(FakeCore().ready(), cache=SIZES, max_model_len=160)
    metrics = ServerMetrics("1")
    metrics.registry.register(EngineCollector(FakeSource(info, STATS)))
    expected = {
        ("kv_cache_bytes", "shared", "0"): 20 * 1700,
        ("kv_cache_bytes", "window", "1"): 5 * 1700,
        ("kv_cache_bytes", "carry", "0"): 4 * 90,
        ("kv_cache_baseline_bytes", "sequential"): 36 * 1600,
        ("kv_cache_baseline_bytes", "one_loop"): 20 * 1600,
        ("live_tokens",): 250,
        # 250 tokens of 3 sequences are 84 each, which are 6 blocks; 160 tokens are 10
        ("kv_cache_sequences", "shared", "live"): 100 // (6 + 2),
        ("kv_cache_sequences", "sequential", "live"): 170_000 // (2 * 6 * 1600),
        ("kv_cache_sequences", "one_loop", "live"): 170_000 // (6 * 1600),
        ("kv_cache_sequences", "shared", "max_model_len"): 100 // (10 + 2),
        ("kv_cache_sequences", "sequential", "max_model_len"): 170_000 // (2 * 10 * 1600),
        ("kv_cache_sequences", "one_loop", "max_model_len"): 170_000 // (10 * 1600),
        ("loop_gate_sum", "1"): 5.5,
        ("loop_gate_count", "1"): 8,
        ("loop_change_sum", "1"): 2.25,
        ("loop_change_count", "1"): 8,
        ("loop_sampled_tokens_total", "1"): 8,
        ("loop_top_token_changes_total", "1"): 3,
    }
    samples = {
        (sample.name.removeprefix("loopserve_"), *sample.labels.values()): sample.value
        for family in parse(generate_latest(metrics.registry).decode())
        for sample in family.samples
    }
    assert {key: samples.get(key) for key in expected} == expected
    assert not [key for key in samples if key[0].startswith("loop_") and key[-1] == "0"]
    of_cache = [key for key in samples if key[0].startswith("kv_cache_") and "blocks" not in key[0]]
    assert len(of_cache) == 11 + 1, "and the share that is used"


def test_an_idle_engine_holds_nothing_and_has_no_live_length() -> None:
    info = msgspec.structs.replace(FakeCore().ready(), cache=SIZES)
    for stats in (EngineStats(), EngineStats(cache=CacheUse(blocks=[0, 0], carry_slots=[0]))):
        metrics = ServerMetrics("1")
        metrics.registry.register(EngineCollector(FakeSource(info, stats)))
        assert value(metrics, "kv_cache_bytes", group="window", loop="1") == 0
        assert value(metrics, "kv_cache_bytes", group="carry", loop="0") == 0
        assert value(metrics, "kv_cache_baseline_bytes", layout="sequential") == 0
        assert value(metrics, "kv_cache_sequences", layout="shared", length="live") is None
        assert value(metrics, "kv_cache_sequences", layout="shared", length="max_model_len") is not None
        assert value(metrics, "loop_gate_count", loop="1") is None


def test_nothing_is_invented_before_the_engine_is_ready() -> None:
    metrics = ServerMetrics("1")
    metrics.registry.register(EngineCollector(FakeSource(None, EngineStats())))
    names = {family.name for family in parse(generate_latest(metrics.registry).decode())}
    assert "loopserve_kv_bytes_per_token" not in names
    assert "loopserve_kv_cache_usage_perc" in names


@pytest.mark.parametrize(("found", "exported"), [(True, 1.0), (False, 0.0), (None, None)])
def test_the_self_check_is_exported_if_it_was_done(found: bool | None, exported: float | None) -> None:
    info = msgspec.structs.replace(FakeCore().ready(), batch_invariant=found)
    metrics = ServerMetrics("1")
    metrics.registry.register(EngineCollector(FakeSource(info, STATS)))
    assert value(metrics, "batch_invariant") == exported


def test_http_series_count_failures_and_bound_their_labels() -> None:
    metrics = ServerMetrics("1")
    series = HttpSeries(metrics.registry, metrics.bounds)

    async def broken(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("broken")

    async def main() -> None:
        for path in ("/a", "/b"):
            await call(HttpMetricsMiddleware(echo, series), path)
        with pytest.raises(RuntimeError):
            await call(HttpMetricsMiddleware(broken, series))

    asyncio.run(main())
    labels = {"method": "POST", "path": "unmatched"}
    assert value(metrics, "http_requests_total", status="200", **labels) == 2
    assert value(metrics, "http_requests_total", status="500", **labels) == 1
    assert value(metrics, "http_requests_active") == 0

"""Which series a server exports, and which of those that `deploy/` speaks of are still to come."""

import re
from collections.abc import Iterator

import msgspec
from prometheus_client import CollectorRegistry

from engine.messages import EngineStats
from server.baseline_metrics import BaselineCollector
from server.calibration import CalibrationState
from server.engine_metrics import EngineCollector
from server.http_metrics import HttpSeries
from server.metrics import ServerMetrics
from tests.engine.fake_core import FakeCore
from tests.server.test_metrics import STATS, FakeSource

_ENDINGS = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
    "info": ("_info",),
}
_METRIC = re.compile(r"(?<![\w:])(?:loopserve_\w+|up)\b(?!:)")

# Delete each name when its series is merged; tests fail if one is here that a server exports.
PENDING = frozenset(
    {
        "loopserve_kv_cache_bytes",
        "loopserve_kv_cache_baseline_bytes",
        "loopserve_kv_cache_sequences",
        "loopserve_live_tokens",
        "loopserve_loop_gate_sum",
        "loopserve_loop_gate_count",
        "loopserve_loop_change_sum",
        "loopserve_loop_change_count",
        "loopserve_loop_sampled_tokens_total",
        "loopserve_loop_top_token_changes_total",
        "loopserve_step_rows_bucket",
        "loopserve_step_rows_sum",
        "loopserve_step_rows_count",
        "loopserve_prompt_tokens_cached_total",
        "loopserve_requests_cancelled_total",
        "loopserve_event_loop_lag_seconds_bucket",
        "loopserve_grammar_compile_seconds_bucket",
        "loopserve_grammar_compile_seconds_sum",
        "loopserve_grammar_compile_seconds_count",
        "loopserve_connections_refused_total",
        "loopserve_model_info",
    }
)


class _Decoded:
    stats = EngineStats()
    calibration = CalibrationState()


def exported_names() -> set[str]:
    """The sample names of every series of a server, those without samples yet included."""
    metrics = ServerMetrics("1")
    ready = msgspec.structs.replace(FakeCore().ready(), batch_invariant=True)
    metrics.registry.register(EngineCollector(FakeSource(ready, STATS)))
    metrics.registry.register(BaselineCollector(_Decoded()))
    HttpSeries(metrics.registry)
    return set(_sample_names(metrics.registry))


def _sample_names(registry: CollectorRegistry) -> Iterator[str]:
    for family in registry.collect():
        for ending in _ENDINGS[family.type]:
            yield family.name + ending


def named_in(expr: str) -> set[str]:
    """The series that a PromQL expression names, Prometheus' own ``up`` included, recorded ones not."""
    return set(_METRIC.findall(expr))

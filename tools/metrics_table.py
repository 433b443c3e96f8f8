"""Writes docs/metrics.md, the reference of everything in /metrics, from the registry itself.

python -m tools.metrics_table
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from engine.messages import (
    CacheSizes,
    CacheUse,
    Calibrated,
    CalibratedCell,
    EngineReady,
    EngineStats,
    LoopSignals,
    StepShape,
)
from server.admission import Admission, AdmissionLimits
from server.baseline_metrics import BaselineCollector
from server.calibration import CalibrationState
from server.engine_client import EngineState
from server.engine_metrics import EngineCollector
from server.http_metrics import HttpSeries
from server.metrics import ServerMetrics
from server.model_metrics import ModelCollector, VllmCollector

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
PREFIX = "loopserve_"
LOOPS = 2

INTRODUCTION = """\
# Metrics

Made from the registry by `python -m tools.metrics_table`; don't edit. What the numbers mean for an operator:
[operations.md](operations.md).

`GET /metrics` answers in Prometheus' text format, or in OpenMetrics if the scraper asks for it. Times are in seconds,
sizes in bytes. Counters never go down while the server lives, restarts of its engine included. Where vLLM has such a
metric, the name is vLLM's with another prefix.
"""

COMPAT = """\

## With `--metrics-compat vllm`

The gauges by which the Gateway API inference extension, llm-d and vLLM's production stack balance, under
the names they look for.

"""


@dataclass
class _Source:
    """An engine client as the collectors see it, of a model with `LOOPS` loops."""

    info: EngineReady | None
    stats: EngineStats
    admission: Admission
    calibration: CalibrationState
    state: EngineState = EngineState.READY
    restarts_total: int = 0
    in_flight: int = 0


def _source() -> _Source:
    ready = EngineReady(
        protocol_version=0,
        max_model_len=1024,
        vocab_size=1,
        num_parameters=1,
        num_loops=LOOPS,
        num_blocks=64,
        block_size=16,
        execution="parallel",
        kv_bytes_per_token=1,
        kv_bytes_per_token_sequential=LOOPS,
        kv_bytes_per_sequence=1,
        batch_invariant=True,
        cache=CacheSizes(kv_block=1, block_hidden=1, carry_slot=1, window_blocks=1),
    )
    calibration = CalibrationState()
    cell = CalibratedCell(
        sequences=1, context=128, parallel_seconds=1.0, sequential_seconds=1.0, ratio=1.0, pairs=1
    )
    calibration.end(Calibrated(cells=[cell], measured=1, seconds=1.0), now=0.0)
    zeros = [0] * LOOPS
    stats = EngineStats(
        rows_total=zeros,
        cache=CacheUse(blocks=zeros, carry_slots=zeros[1:]),
        signals=LoopSignals(tokens=zeros, gates=[0.0] * LOOPS, changes=[0.0] * LOOPS, token_changes=zeros),
    )
    return _Source(ready, stats, Admission(AdmissionLimits(1, 1)), calibration)


def registry(*, compat: bool = False) -> CollectorRegistry:
    """Everything that a server exports, with each label that has known values set."""
    metrics, source = ServerMetrics("0"), _source()
    metrics.on_step(1.0, StepShape(phase="decode", rows=[1] * LOOPS))
    http = HttpSeries(metrics.registry, metrics.bounds)
    http.requests.labels("GET", "/path", "200")
    http.seconds.labels("GET", "/path")
    for collector in (EngineCollector(source), BaselineCollector(source), ModelCollector(source, "model")):
        metrics.registry.register(collector)
    if compat:
        metrics.registry.register(VllmCollector(source, "model"))
    return metrics.registry


def families(*, compat: bool = False) -> list[Metric]:
    """All families, by name."""
    return sorted(registry(compat=compat).collect(), key=lambda family: family.name)


def sample_names() -> set[str]:
    """Every name that a query can ask for: with `_total`, `_bucket` and the like."""
    return {sample.name for family in families() for sample in family.samples}


def page() -> str:
    """The whole page."""
    known = families()
    names = {family.name for family in known}
    compat = [family for family in families(compat=True) if family.name not in names]
    return INTRODUCTION + "".join(_section(family) for family in known) + COMPAT + _table(compat)


def _section(family: Metric) -> str:
    kind = {"unknown": "gauge"}.get(family.type, family.type)
    name = f"{family.name}_total" if kind == "counter" else family.name
    if kind == "info":
        name += "_info"
    lines = [f"\n### `{name}`\n", f"{kind}. {family.documentation}\n"]
    lines += [f"* `{label}`: {_values(values)}\n" for label, values in _labels(family).items()]
    if kind == "histogram":
        lines.append(f"* bounds: {', '.join(_bounds(family))}\n")
    return "\n".join(lines[:2]) + ("\n" + "".join(lines[2:]) if lines[2:] else "")


def _table(rows: Iterable[Metric]) -> str:
    lines = ["| name | labels | |", "|---|---|---|"]
    lines += [
        f"| `{family.name}` | {', '.join(f'`{label}`' for label in _labels(family))} | {family.documentation} |"
        for family in rows
    ]
    return "\n".join(lines) + "\n"


def _labels(family: Metric) -> dict[str, list[str]]:
    """Labels and their values, in order, without a histogram's bounds."""
    found: dict[str, dict[str, None]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                found.setdefault(label, {})[value] = None
    return {label: list(values) for label, values in found.items()}


def _values(values: Sequence[str]) -> str:
    return f"such as `{values[0]}`" if len(values) == 1 else ", ".join(f"`{value}`" for value in values)


def _bounds(family: Metric) -> list[str]:
    bounds = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
    return [f"{float(bound):g}" for bound in bounds if bound != "+Inf"]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

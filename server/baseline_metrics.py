"""Exports the decode passes' times against the sequential loop's. What they mean: docs/operations.md."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.messages import CalibratedCell, EngineStats
from server.calibration import CalibrationState


class BaselineSource(Protocol):
    """Where the counts come from; `server.engine_client.EngineClient` is one."""

    @property
    def stats(self) -> EngineStats: ...

    @property
    def calibration(self) -> CalibrationState: ...


class BaselineCollector(Collector):
    """A Prometheus collector over the engine's decode times and its last calibration."""

    def __init__(self, source: BaselineSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        times = self._source.stats.decode
        yield _seconds(
            "decode_seconds",
            "Seconds that decode passes took, and would have taken in the other execution.",
            times.parallel_seconds,
            times.sequential_seconds,
        )
        yield CounterMetricFamily(
            "loopserve_decode_passes", "Decode passes that decode_seconds counts.", value=times.passes
        )
        yield _seconds(
            "shadow_seconds",
            "Seconds of decode passes that ran in both executions, to compare.",
            times.shadow_parallel_seconds,
            times.shadow_sequential_seconds,
        )
        yield CounterMetricFamily(
            "loopserve_shadow_passes", "Decode passes that ran in both executions.", value=times.shadow_passes
        )
        yield _cells(self._source.calibration.cells)


def _seconds(name: str, text: str, parallel: float, sequential: float) -> Metric:
    family = CounterMetricFamily(f"loopserve_{name}", text, labels=["execution"])
    family.add_metric(["parallel"], parallel)
    family.add_metric(["sequential"], sequential)
    return family


def _cells(cells: list[CalibratedCell]) -> Metric:
    family = GaugeMetricFamily(
        "loopserve_calibrated_pass_seconds",
        "Seconds for one token of each of so many sequences with so much context, as last calibrated.",
        labels=["execution", "sequences", "context"],
    )
    for cell in cells:
        at = [str(cell.sequences), str(cell.context)]
        family.add_metric(["parallel", *at], cell.parallel_seconds)
        family.add_metric(["sequential", *at], cell.sequential_seconds)
    return family

"""Exports which model is served, and what routers that know vLLM's names look for."""

from collections.abc import Iterator
from typing import Literal, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.messages import EngineReady, EngineStats

MetricsCompat = Literal["none", "vllm"]


class ModelSource(Protocol):
    """Where the values come from; `server.engine_client.EngineClient` is one."""

    info: EngineReady | None

    @property
    def stats(self) -> EngineStats: ...


class ModelCollector(Collector):
    """`loopserve_model_info`, once the engine is ready."""

    def __init__(self, source: ModelSource, model_name: str) -> None:
        self._source = source
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        family = GaugeMetricFamily(
            "loopserve_model_info",
            "The model that is served.",
            labels=["model_name", "num_loops", "max_model_len", "num_parameters"],
        )
        if (info := self._source.info) is not None:
            sizes = (info.num_loops, info.max_model_len, info.num_parameters)
            family.add_metric([self._model_name, *map(str, sizes)], 1)
        yield family


class VllmCollector(Collector):
    """The five gauges by which routers balance (Gateway API inference extension, llm-d, vLLM's production stack)."""

    def __init__(self, source: ModelSource, model_name: str) -> None:
        self._source = source
        self._labels = {"model_name": model_name, "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        stats, info = self._source.stats, self._source.info
        usage = stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0
        yield self._gauge("num_requests_running", "Sequences running.", stats.running)
        yield self._gauge("num_requests_waiting", "Sequences waiting.", stats.waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of cache blocks held, 0 to 1.", usage)
        if info is not None:
            blocks = {"block_size": str(info.block_size), "num_gpu_blocks": str(info.num_blocks)}
            yield self._gauge("cache_config_info", "Shape of the cache.", 1, blocks)
        adapters = {"max_lora": "0", "running_lora_adapters": "", "waiting_lora_adapters": ""}
        yield self._gauge("lora_requests_info", "No adapters are served.", 0, adapters)

    def _gauge(self, name: str, text: str, value: float, more: dict[str, str] | None = None) -> Metric:
        labels = self._labels | (more or {})
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=list(labels))
        family.add_metric(list(labels.values()), float(value))
        return family

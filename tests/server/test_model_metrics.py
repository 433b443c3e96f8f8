"""Which model is served, and the gauges of routers that know another server's names."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse

from engine.messages import EngineReady, EngineStats
from server.model_metrics import ModelCollector, VllmCollector
from tests.engine.fake_core import FakeCore


@dataclass
class Source:
    info: EngineReady | None
    stats: EngineStats


def samples(source: Source) -> dict[str, list[tuple[dict[str, str], float]]]:
    registry = CollectorRegistry()
    registry.register(ModelCollector(source, "coder"))
    registry.register(VllmCollector(source, "coder"))
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parse(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_five_gauges_of_routers() -> None:
    info = FakeCore().ready()
    found = samples(Source(info, EngineStats(running=3, waiting=2, blocks_total=8, blocks_used=2)))
    labels = {"model_name": "coder", "engine": "0"}
    assert found["vllm:num_requests_running"] == [(labels, 3.0)]
    assert found["vllm:num_requests_waiting"] == [(labels, 2.0)]
    assert found["vllm:kv_cache_usage_perc"] == [(labels, 0.25)]
    cache = {"block_size": str(info.block_size), "num_gpu_blocks": str(info.num_blocks)}
    assert found["vllm:cache_config_info"] == [(labels | cache, 1.0)]
    [(adapters, _)] = found["vllm:lora_requests_info"]
    assert {"max_lora", "running_lora_adapters", "waiting_lora_adapters"} < set(adapters)


def test_the_model() -> None:
    info = FakeCore().ready()
    [(labels, value)] = samples(Source(info, EngineStats()))["loopserve_model_info"]
    assert value == 1.0
    assert labels["model_name"] == "coder"
    assert labels["num_loops"] == str(info.num_loops)


def test_before_the_engine_is_ready() -> None:
    found = samples(Source(None, EngineStats()))
    assert "loopserve_model_info" not in found
    assert "vllm:cache_config_info" not in found
    assert found["vllm:kv_cache_usage_perc"][0][1] == 0.0

"""`loopserve plan`: what it prints, its exit codes, and one line for every mistake."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planning.devices import A100, Device
from planning.errors import PlanError
from planning.formats import formats_of
from planning.loopcoder import CONFIG
from planning.memory import CacheOptions
from planning.plan import Asked, Plan, make_plan
from planning.report import as_text
from scheduler.loop_layout import LoopCache
from server import cli
from tests.engine.test_config import RELEASED

DEMO = str(Path(__file__).parents[2] / "models" / "demo")
BY_HAND = ("--memory", "8GB", "--bandwidth", "20", "--flops", "0.2")


@pytest.fixture
def released(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED))
    return str(tmp_path / "config.json")


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert cli.run(["plan", *arguments]) == code
    return capsys.readouterr().out


def numbers(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(capsys, *arguments, "--json", code=code))
    return found


def test_the_released_model_on_an_a100(capsys: pytest.CaptureFixture[str], released: str) -> None:
    found = numbers(capsys, released, "--gpu", "a100", "--context", "8192", "--concurrency", "64")
    assert found["memory"]["weights_per_rank"] == 2 * 7_615_749_680
    assert found["memory"]["kv_per_token"] == {"shared": 57344, "sequential": 114688, "one_loop": 57344}
    assert found["fits"]
    # docs/results/roofline.md, context 8k, batch 64.
    assert [round(1e3 * found["decode"][each]["seconds"], 2) for each in ("parallel", "one_loop")] == [
        22.40,
        22.06,
    ]
    assert round(found["decode"]["sequential_over_parallel"], 2) == 1.96
    text = told(capsys, released, "--gpu", "a100", "--context", "8192", "--concurrency", "64")
    for part in ("not a measurement", "57.3 kB", "114.7 kB", "22.40", "64 sequences fit"):
        assert part in text


def test_too_much_is_said_and_is_the_exit_code(capsys: pytest.CaptureFixture[str], released: str) -> None:
    text = told(capsys, released, "--gpu", "l4", "--context", "131072", "--concurrency", "2", code=1)
    assert "do NOT fit" in text
    assert "not one sequence" in text
    text = told(capsys, released, *BY_HAND, code=1)
    assert "the weights do not fit" in text


def test_several_gpus_a_cpu_and_more_loops(capsys: pytest.CaptureFixture[str], released: str) -> None:
    one = numbers(capsys, released, "--gpu", "h100")
    two = numbers(capsys, released, "--gpu", "h100", "--tensor-parallel-size", "2")
    assert two["memory"]["weights_per_rank"] < one["memory"]["weights_per_rank"]
    assert two["decode"]["parallel"]["exchange"] > one["decode"]["parallel"]["exchange"] == 0
    cpu = numbers(capsys, DEMO, "--cpu", *BY_HAND, "--context", "1024", "--concurrency", "4")
    assert cpu["memory"]["kv_per_token"]["shared"] == 2 * 6 * 2 * 64 * 4
    three = numbers(capsys, DEMO, *BY_HAND, "--context", "1024", "--model-overrides", '{"plt_num_loops": 3}')
    assert three["memory"]["kv_per_token"]["sequential"] == 3 * three["memory"]["kv_per_token"]["shared"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((DEMO,), "--gpu"),
        ((DEMO, "--gpu", "z9"), "is not known"),
        ((DEMO, "--memory", "8GB"), "--bandwidth and --flops"),
        ((DEMO, "--gpu", "h100", "--memory", "lots"), "is not a size"),
        ((DEMO, *BY_HAND, "--bandwidth", "0"), "above 0"),
        ((DEMO, "--gpu", "h100", "--cpu"), "leave out --gpu"),
        ((DEMO, "--gpu", "h100", "--context", "999999"), "max_position_embeddings"),
        ((DEMO, "--gpu", "h100", "--context", "64", "--tensor-parallel-size", "3"), "must divide"),
        ((DEMO, *BY_HAND, "--context", "64", "--tensor-parallel-size", "2"), "--link"),
        ((DEMO, "--gpu", "h100", "--dtype", "float32"), "--flops"),
        ((DEMO, "--gpu", "h100", "--model-overrides", "{"), "not valid JSON"),
        ((DEMO, "--gpu", "h100", "--model-overrides", "[]"), "must be a JSON object"),
        (("/no/such/model", "--gpu", "h100"), "neither an existing directory"),
    ],
)
def test_mistakes_get_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    assert cli.run(["plan", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert text in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def plan(device: Device, context: int, concurrency: int, ranks: int = 1) -> Plan:
    formats = formats_of(CONFIG, False, "auto", "auto", "none")
    return make_plan(Asked(CONFIG, formats, device, context, concurrency, ranks, CacheOptions()))


@given(context=st.integers(1, 100_000), concurrency=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_more_of_anything_is_not_less(context: int, concurrency: int) -> None:
    here, more, longer = (
        plan(A100, *load)
        for load in ((context, concurrency), (context, concurrency + 1), (context + 1, concurrency))
    )
    assert here.decode.parallel.seconds <= here.decode.sequential.seconds
    assert here.decode.one_loop.seconds <= here.decode.parallel.seconds
    assert here.prefill.one_loop.seconds <= here.prefill.parallel.seconds <= here.prefill.sequential.seconds
    for other in (more, longer):
        assert here.decode.parallel.seconds <= other.decode.parallel.seconds
        assert here.fits or not other.fits
    assert here.fits == (concurrency <= here.memory.fitting["shared"])


def test_a_model_without_an_offset_gains_nothing_from_parallel_loops() -> None:
    formats = formats_of(CONFIG, False, "auto", "auto", "none")
    in_order = replace(CONFIG, loops=replace(CONFIG.loops, offset=0))
    made = make_plan(Asked(in_order, formats, A100, 1024, 8))
    assert made.decode.parallel == made.decode.sequential
    assert "a pass per loop, always" in as_text(made)
    assert "sequential" not in as_text(made).partition("Decode step")[2].partition("Prefill")[0]
    with pytest.raises(PlanError, match="must divide"):
        plan(A100, 1024, 1, ranks=3)


def test_a_context_per_loop_costs_all_loops_and_is_not_listed_twice() -> None:
    formats = formats_of(CONFIG, False, "auto", "auto", "none")
    own = replace(CONFIG, loops=replace(CONFIG.loops, offset=0, window=0, cache=LoopCache.OWN))
    made = make_plan(Asked(own, formats, A100, 1024, 8))
    memory, loops = made.memory, CONFIG.loops.num_loops
    assert memory.kv_per_token["shared"] == memory.kv_per_token["sequential"]
    assert memory.kv_per_token["shared"] == loops * memory.kv_per_token["one_loop"]
    shared = make_plan(Asked(CONFIG, formats, A100, 1024, 8))
    assert memory.fitting["shared"] < shared.memory.fitting["shared"]
    assert made.decode.parallel.attention > shared.decode.parallel.attention
    assert made.prefill.parallel == made.prefill.sequential
    text = as_text(made)
    assert text.count("a cache per loop") == 2
    assert "a cache per loop (loopserve)" in text
    assert "window" not in text
    assert "sequential" not in text

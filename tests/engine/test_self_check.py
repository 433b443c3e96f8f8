"""The start-up self-check says yes where results don't depend on the crowd, and no where they do."""

import logging
from typing import Any

import pytest
import torch

from engine.core import EngineCore
from engine.loading import load_model
from engine.options import EngineOptions
from engine.sampler import SampledBatch
from engine.self_check import CROWDS
from kernels import row_ops
from kernels.cpu import CpuBackend
from kernels.interface import LayerCache, RowBatch
from kernels.panel_linear import PanelLinear
from tests.engine.harness import Checkpoint, checkpoint


@pytest.fixture(scope="module", params=[1, 3], ids=["one loop", "three loops"])
def model(request: pytest.FixtureRequest) -> Checkpoint:
    return checkpoint(plt_num_loops=request.param, plt_window_size=[3, 0])


def checked(model: Checkpoint, **options: Any) -> EngineCore:
    return model.core(self_check=True, threads=1, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_cache_dtype": "bfloat16", "quantization": "int8"},
        {"dtype": "bfloat16", "quantization": "int4", "block_size": 3},
        {"execution": "sequential", "prefix_caching": False},
        {"max_num_seqs": 1},
        {"max_model_len": 2},
        {"max_model_len": 2, "tensor_parallel_size": 2},
        {"tensor_parallel_size": 2},
    ],
    ids=str,
)
def test_it_holds_on_the_cpu_backend(
    model: Checkpoint, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        core = checked(model, **options)
    assert core.ready().batch_invariant is True
    assert "self-check: a request gets the same bits alone and in a crowd" in caplog.text
    assert core.scheduler.blocks.used == 0


def test_it_can_be_left_out(model: Checkpoint) -> None:
    assert model.core(self_check=False).ready().batch_invariant is None


def one_ulp_up(out: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(out, torch.tensor(torch.inf))


def products_of_many_rows(patch: pytest.MonkeyPatch) -> None:
    call = PanelLinear.__call__

    def broken(self: PanelLinear, x: torch.Tensor) -> torch.Tensor:
        return call(self, x) if len(x) < 4 else one_ulp_up(call(self, x))

    patch.setattr(PanelLinear, "__call__", broken)


def products_of_one_row(patch: pytest.MonkeyPatch) -> None:
    """As torch's own: one row goes another way."""
    call = PanelLinear.__call__

    def broken(self: PanelLinear, x: torch.Tensor) -> torch.Tensor:
        return call(self, x) if len(x) > 1 else one_ulp_up(call(self, x))

    patch.setattr(PanelLinear, "__call__", broken)


def norms_by_place(patch: pytest.MonkeyPatch) -> None:
    """Another last bit in every fourth row, as where vectors end."""
    norm = row_ops.rms_norm

    def broken(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = norm(x, weight, eps)
        out[3::4] = one_ulp_up(out[3::4])
        return out

    patch.setattr(row_ops, "rms_norm", broken)


def attention_by_tiles(patch: pytest.MonkeyPatch) -> None:
    attend = CpuBackend.attend

    def broken(
        self: CpuBackend,
        cache: LayerCache,
        queries: torch.Tensor,
        gates: torch.Tensor | None,
        batch: RowBatch,
    ) -> torch.Tensor:
        out = attend(self, cache, queries, gates, batch)
        return out if len(batch.tiles) < 5 else one_ulp_up(out)

    patch.setattr(CpuBackend, "attend", broken)


def draws_of_many_rows(patch: pytest.MonkeyPatch) -> None:
    def broken(logits: torch.Tensor, states: list[object]) -> SampledBatch:
        tokens = logits.argmax(dim=1)
        return SampledBatch(tokens + (len(states) > 2), torch.zeros(len(states), dtype=torch.bool))

    patch.setattr("engine.sampler.sample_batch", broken)


@pytest.mark.parametrize(
    "break_it",
    [products_of_many_rows, products_of_one_row, norms_by_place, attention_by_tiles, draws_of_many_rows],
    ids=lambda each: each.__name__,
)
def test_dependence_on_the_crowd_is_caught_and_the_model_is_served(
    model: Checkpoint, break_it: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_it(monkeypatch)
    core = checked(model)
    assert core.ready().batch_invariant is False
    (record,) = (record for record in caplog.records if "self-check" in record.message)
    assert record.levelno == logging.WARNING
    assert "not reproducible bit for bit" in record.message


def test_a_backend_without_the_promise_is_reported_without_a_warning(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    products_of_many_rows(monkeypatch)
    with caplog.at_level(logging.INFO):
        core = checked(model, attention_backend="reference")
    assert core.ready().batch_invariant is False
    (record,) = (record for record in caplog.records if "self-check" in record.message)
    assert record.levelno == logging.INFO
    assert "the reference backend promises nothing else" in record.message


def test_crowds_begin_alone_and_grow() -> None:
    assert CROWDS[0] == 1
    assert list(CROWDS) == sorted(set(CROWDS))


def test_the_first_answer_is_not_changed_by_the_check(model: Checkpoint) -> None:
    """A split model is tried in its own memory."""
    answers = []
    for check in (True, False):
        options = EngineOptions(
            model_dir=str(model.path),
            threads=1,
            kv_cache_memory=4 << 20,
            max_num_seqs=4,
            tensor_parallel_size=2,
            self_check=check,
        )
        core = EngineCore(load_model(options, show_progress=False))
        driver = model.driver(self_check=False)
        driver.core = core
        answers.append(driver.one(list(range(20, 60)), max_tokens=6, logprobs=3))
    assert answers[0] == answers[1]

"""Every quantity of the report against the oracle in float64 and plain numpy, for texts of all lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.attention import mean_cosine, sampled_positions
from diagnostics.metrics import INDEX, METRICS, Sums
from diagnostics.plan import Plan
from diagnostics.states import effective_rank
from tests import oracle
from tests.diagnostics.measuring import Quantities, expected, measure, measured_of, windowed
from tests.engine.harness import saved
from tests.family_configs import family_config

CLOSE = 3e-4
"""float32 against float64; relative, for quantities above 1."""


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 320, (length,), generator=generator).tolist()


def assert_equal(sums: Sums, truth: Quantities) -> None:
    """Also that nothing is there of what doesn't exist."""
    loops = range(1, sums.num_loops + 1)
    there = {(key, loop) for key in INDEX for loop in loops if sums.counts[INDEX[key], loop - 1]}
    assert there == set(truth)
    for (key, loop), value in truth.items():
        assert sums.mean(key, loop) == pytest.approx(value, rel=CLOSE, abs=CLOSE), (key, loop)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("loops", "shift", "normalize", "on_hidden", "rows"),
    [
        (2, 1, True, True, 64),
        (2, 1, True, False, 7),
        (3, 1, True, True, 17),
        (3, 1, False, True, 64),
        (3, 0, True, True, 17),
        (2, 0, False, False, 64),
    ],
)
def test_every_quantity_is_what_its_formula_says(loops, shift, normalize, on_hidden, rows, backend):
    model = windowed(loops, shift, normalize, on_hidden)
    plan = Plan(most_tokens=40, attention_positions=5)
    measured = measured_of(model, plan, attention_backend=backend, max_rows_per_step=rows)
    keys: set[str] = set()
    for length in (2, 3, 5, 40):  # shorter than a block, than the window, and longer than all
        tokens = prompt_of(length, seed=length)
        truth = expected(model, tokens, loops + 1, sampled_positions(length, 5))
        sums, gates = measure(measured, tokens)
        assert_equal(sums, truth)
        trace = oracle.trace(model.config, model.tensors, tokens, loops + 1)
        for loop in range(1, loops + 1):
            by_layer = np.stack([gate.mean(dim=0).numpy() for gate in trace.gates[loop]])
            np.testing.assert_allclose(gates[loop], by_layer, atol=CLOSE)
        keys |= {key for key, _ in truth}
    assert keys == {metric.key for metric in METRICS}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", ["iquestloopcoder", "nanbeige", "ouro", "llama", "qwen3"])
def test_every_family_is_measured_by_the_same_formulas(name: str, backend: str) -> None:
    """Plain models have no second loop, not even an extra one."""
    model = saved(family_config(name), seed=5)
    plan, extra = Plan(most_tokens=40, attention_positions=5), int(name not in ("llama", "qwen3"))
    measured = measured_of(model, plan, extra, attention_backend=backend, max_rows_per_step=17)
    for length in (2, 40):
        tokens = prompt_of(length, seed=length)
        truth = expected(model, tokens, measured.num_loops, sampled_positions(length, 5))
        sums, gates = measure(measured, tokens)
        assert_equal(sums, truth)
        assert gates.any() == (name == "iquestloopcoder")


def test_keys_are_different() -> None:
    assert len(INDEX) == len(METRICS)


def test_first_loops_are_those_that_the_table_names():
    model = windowed(3)
    truth = expected(model, prompt_of(9), 4, [4])
    for metric in METRICS:
        assert min(loop for key, loop in truth if key == metric.key) == metric.first_loop


def test_a_model_of_one_loop_has_what_needs_no_second():
    model = windowed(1)
    measured = measured_of(model, Plan(most_tokens=20, attention_positions=3), extra=0)
    tokens = prompt_of(20)
    truth = expected(model, tokens, 1, sampled_positions(20, 3))
    sums, gates = measure(measured, tokens)
    assert_equal(sums, truth)
    assert not gates.any()


def test_another_loop_after_them_changes_no_bit_of_the_models_own():
    model, tokens = windowed(2), prompt_of(30)
    plan = Plan(most_tokens=30, attention_positions=4)
    alone, _ = measure(measured_of(model, plan, extra=0), tokens)
    more, _ = measure(measured_of(model, plan), tokens)
    for metric in METRICS:
        for loop in (1, 2):
            if not metric.key.startswith("fixed_point_gap") or loop == 1:
                np.testing.assert_equal(alone.mean(metric.key, loop), more.mean(metric.key, loop))


def test_a_document_says_the_same_after_others():
    measured = measured_of(windowed(2), Plan(most_tokens=40, attention_positions=4))
    first, _ = measure(measured, prompt_of(9))
    measure(measured, prompt_of(40, seed=1))
    again, _ = measure(measured, prompt_of(9))
    assert (first.totals == again.totals).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), length=st.integers(2, 24), loops=st.sampled_from([2, 3]))
def test_no_text_breaks_a_bound(seed, length, loops):
    measured = _bounded(loops)
    sums, gates = measure(measured, prompt_of(length, seed))
    config = measured.model.config
    for loop in range(1, loops + 2):
        for key in ("output_shift", "attention_kl", "output_entropy", "attention_entropy", "step_size_raw"):
            assert not sums.mean(key, loop) < -1e-9
        assert sums.mean("output_entropy", loop) <= np.log(config.vocab_size)
        assert sums.mean("attention_entropy", loop) <= np.log(length)
        assert 1 <= sums.mean("lens_rank", loop) <= config.vocab_size
        assert 1 - 1e-9 <= sums.mean("effective_rank_raw", loop) <= min(length, config.hidden_size) + 1e-6
        assert 1 - 1e-9 <= sums.mean("head_rank", loop) <= config.num_heads + 1e-6
        assert 0 <= sums.mean("head_cosine", loop) <= 1 + 1e-9
        assert not abs(sums.mean("update_alignment_normed", loop)) > 1 + 1e-9
        assert not sums.mean("gate", loop) > 1
    assert ((gates >= 0) & (gates <= 1)).all()


_CACHE: dict[int, object] = {}


def _bounded(loops: int):
    if loops not in _CACHE:
        _CACHE[loops] = measured_of(windowed(loops), Plan(most_tokens=24, attention_positions=3))
    return _CACHE[loops]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_effective_rank_is_between_one_and_the_smaller_side_and_knows_no_scale(seed, rows, columns):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    rank = float(effective_rank(matrix))
    singular = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert rank == pytest.approx(float(np.exp(-(share * np.log(share)).sum())), rel=1e-6)
    assert 1 - 1e-9 <= rank <= min(rows, columns) + 1e-9
    assert float(effective_rank(matrix * 1e4)) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_of_special_matrices():
    assert float(effective_rank(torch.eye(7))) == pytest.approx(7)
    assert float(effective_rank(torch.ones(5, 9))) == pytest.approx(1, abs=1e-6)
    assert float(effective_rank(torch.zeros(3, 4))) == 0
    batch = torch.stack([torch.eye(3), torch.ones(3, 3)])
    assert effective_rank(batch).tolist() == pytest.approx([3, 1], abs=1e-6)


def test_cosine_of_equal_and_of_orthogonal_heads():
    assert float(mean_cosine(torch.ones(3, 4))) == pytest.approx(1)
    assert float(mean_cosine(torch.eye(3))) == pytest.approx(0)


@given(length=st.integers(1, 3000), most=st.integers(0, 64))
def test_sampled_positions_are_in_the_text_and_spread(length, most):
    positions = sampled_positions(length, most)
    assert positions == sorted(set(positions))
    assert len(positions) == min(length, most)
    assert all(0 <= position < length for position in positions)

"""Triton's row operations against the plain-torch reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import e4m3
from kernels.gpu.triton_backend import TritonBackend
from kernels.interface import HiddenGate, LayerCache, QueryGate, RopeTable
from kernels.reference import ReferenceBackend
from tests.kernels.batches import random_case
from tests.kernels.dense import FLOAT32, UNIT_ROUNDOFF
from tests.kernels.gpu.device import DEVICE, on_device

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WIDTHS = [1, 5, 48, 256, 1000, 1025]
REFERENCE, TRITON = ReferenceBackend(), TritonBackend()


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_one_rounding_apart(actual: torch.Tensor, expected: torch.Tensor, sums: int = 1) -> None:
    """Both were rounded once from float32 results that differ by the order of `sums` additions: two roundings."""
    unit = UNIT_ROUNDOFF[expected.dtype]
    scale = expected.double().abs().amax(dim=-1, keepdim=True)
    allowed = 2 * unit * expected.double().abs() + (sums + 16) * FLOAT32 * (1 + scale)
    assert actual.dtype == expected.dtype
    assert ((actual.cpu().double() - expected.double()).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_norms_and_silu(dtype, width):
    x, delta, weight = (
        random(7, width, dtype=dtype),
        random(7, width, dtype=dtype, seed=1),
        random(width, dtype=dtype),
    )
    normed = TRITON.rms_norm(on_device(x), on_device(weight), 1e-5)
    assert_one_rounding_apart(normed, REFERENCE.rms_norm(x, weight, 1e-5), width)
    total, normed = TRITON.add_rms_norm(on_device(x.clone()), on_device(delta), on_device(weight), 1e-5)
    expected_total, expected = REFERENCE.add_rms_norm(x, delta, weight, 1e-5)
    assert torch.equal(total.cpu(), expected_total)
    assert_one_rounding_apart(normed, expected, width)
    gate_up = 3 * random(5, 2 * width, dtype=dtype)
    assert_one_rounding_apart(TRITON.silu_mul(on_device(gate_up)), REFERENCE.silu_mul(gate_up))


def test_silu_of_extreme_values_stays_finite():
    gate_up = torch.tensor([[-1000.0, 1000.0, -torch.inf, 1.0, 1.0, 1.0]])
    actual = TRITON.silu_mul(on_device(gate_up)).cpu()
    assert torch.equal(actual[0, :2], torch.tensor([-0.0, 1000.0]))
    assert actual[0, 2].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "heads", "hidden"), [(1, 1, 5), (17, 6, 130), (33, 40, 300)])
def test_gates(dtype, rows, heads, hidden):
    x, queries = 2 * random(rows, hidden, dtype=dtype), random(rows, heads, 24, dtype=dtype)
    bias = random(heads, dtype=dtype, seed=3)
    gates = [
        HiddenGate(random(hidden, dtype=dtype), random(heads, hidden, dtype=dtype, seed=2), bias),
        QueryGate(random(heads, 24, dtype=dtype, seed=4), bias),
    ]
    for gate in gates:
        actual = TRITON.gates(on_device(gate), on_device(x), on_device(queries), 1e-5)
        expected = REFERENCE.gates(gate, x, queries, 1e-5)
        assert actual.dtype == torch.float32
        # A normed value may be rounded to its neighbour: a dot product moves by 2·u·Σ|x·w|, the sigmoid by a quarter.
        moved = (
            1e-6
            if isinstance(gate, QueryGate)
            else 2
            * UNIT_ROUNDOFF[dtype]
            * float(
                (REFERENCE.rms_norm(x, gate.norm, 1e-5).float().abs() @ gate.weight.float().abs().T).max()
            )
        )
        torch.testing.assert_close(actual.cpu(), expected, atol=moved / 4 + 1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [3, 1030])
def test_loop_input(dtype, hidden):
    case = random_case(1)
    rows = len(case.batch.positions)
    rng = np.random.default_rng(2)
    batch = replace(
        case.batch,
        token_ids=torch.from_numpy(rng.integers(0, 50, rows, dtype=np.int32)),
        input_slots=torch.from_numpy(rng.integers(0, 9, rows, dtype=np.int32)),
    )
    embedding, carries = random(50, hidden, dtype=dtype), random(10, hidden, dtype=dtype, seed=1)
    actual = TRITON.loop_input(on_device(embedding), on_device(carries), on_device(batch), 0.707, 0.053)
    expected = REFERENCE.loop_input(embedding, carries, batch, 0.707, 0.053)
    assert_one_rounding_apart(actual, expected)
    first = batch.loops == 0
    assert torch.equal(actual.cpu()[first], expected[first])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [3, 1030])
def test_hidden_states_go_to_their_slots_and_nowhere_else(dtype, hidden):
    case = random_case(1)
    rows = len(case.batch.positions)
    slots, blocks = (torch.full((rows,), -1, dtype=torch.int32) for _ in range(2))
    slots[[1, 4, 9]], blocks[[4, 7]] = (
        torch.tensor([[3, 1, 6], [2, 5, 0]], dtype=torch.int32)[0],
        torch.tensor([2, 5], dtype=torch.int32),
    )
    batch = replace(case.batch, output_slots=slots, snapshot_blocks=blocks)
    hidden_states = random(rows, hidden, dtype=dtype)
    stores = [[random(n, hidden, dtype=dtype, seed=n) for n in (9, 7)] for _ in range(2)]
    stores[1] = [on_device(store) for store in stores[1]]
    REFERENCE.keep_hidden(hidden_states, *stores[0], batch)
    TRITON.keep_hidden(on_device(hidden_states), *stores[1], on_device(batch))
    for expected, actual in zip(*stores, strict=True):
        assert torch.equal(actual.cpu()[:-1], expected[:-1]), "the last row takes what goes nowhere"


@pytest.mark.parametrize("cache_dtype", [None, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "block_size", "group"), [(2, 4, 1), (96, 16, 5), (64, 3, 2)])
def test_rows_are_rotated_and_written(dtype, cache_dtype, head_dim, block_size, group):
    case = random_case(
        *(1,), head_dim=head_dim, block_size=block_size, group=group, dtype=dtype, cache_dtype=cache_dtype
    )
    rows, heads = case.queries.shape[:2]
    case.batch.cache_slots[3] = -1
    angles = random(40, head_dim // 2)
    rope = RopeTable(angles.cos(), angles.sin())
    qkv = 3 * random(rows, (heads + 4) * head_dim, dtype=dtype)

    def run(backend, place) -> tuple[torch.Tensor, LayerCache]:
        cache = place(replace(case.cache, keys=case.cache.keys.clone(), values=case.cache.values.clone()))
        return backend.rotate_and_write(place(qkv), place(rope), cache, place(case.batch)), cache

    expected, expected_cache = run(REFERENCE, lambda value: value)
    actual, cache = run(TRITON, on_device)
    assert_one_rounding_apart(actual, expected)
    for stored, wanted in ((cache.keys, expected_cache.keys), (cache.values, expected_cache.values)):
        stored, wanted = stored.cpu()[:-1], wanted[:-1]
        if wanted.dtype == torch.uint8:
            # A code may be the neighbour's where the rotated value fell on the other side of a tie.
            assert ((stored.int() - wanted.int()).abs() <= 1).all()
            assert (stored == wanted).float().mean() > 0.98
        else:
            assert_one_rounding_apart(stored.to(dtype), wanted.to(dtype)) if cache_dtype is None else None
            torch.testing.assert_close(stored, wanted, atol=1e-3, rtol=2 * UNIT_ROUNDOFF[wanted.dtype])
    untouched = torch.ones(case.cache.keys.shape[0], block_size, dtype=torch.bool)
    untouched.view(-1)[case.batch.cache_slots[case.batch.cache_slots >= 0].long()] = False
    kept = untouched[:-1, None, :, None].expand_as(case.cache.keys[:-1])
    assert torch.equal(cache.keys.cpu()[:-1][kept], case.cache.keys[:-1][kept])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), magnitude=st.integers(-20, 12))
def test_e4m3_codes_are_torchs(seed, magnitude):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy((rng.standard_normal(256) * 2.0**magnitude).astype(np.float32))
    x[:6] = torch.tensor([0.0, -0.0, torch.nan, 448.0, 464.0, -1e9])
    assert torch.equal(stored_codes(x), e4m3.encode(x.view(1, 1, -1), torch.ones(1)).flatten())


def test_every_e4m3_code_survives():
    codes = torch.arange(256, dtype=torch.uint8)
    values = codes.view(torch.float8_e4m3fn).float()
    numbers = ~values.isnan()
    assert torch.equal(stored_codes(values)[numbers], codes[numbers])
    ordered = values[numbers].sort().values
    halves = ordered[:-1] / 2 + ordered[1:] / 2
    assert torch.equal(stored_codes(halves), halves.to(torch.float8_e4m3fn).view(torch.uint8)), (
        "ties go to even"
    )


def stored_codes(x: torch.Tensor) -> torch.Tensor:
    """What `rotate_and_write` leaves in an e4m3 cache for float32 values."""
    count = len(x)
    x = torch.cat([x, x.new_zeros(-count % 2)])
    case = random_case(0, num_loops=1, kv_heads=1, group=1, head_dim=len(x), lengths=(1,), new_rows=(1,))
    codes = torch.zeros(2, 1, 1, len(x), dtype=torch.uint8)
    cache = LayerCache(codes, codes.clone(), torch.ones(1), torch.ones(1))
    batch = replace(case.batch, cache_slots=torch.zeros(1, dtype=torch.int32))
    rope = RopeTable(torch.ones(1, len(x) // 2), torch.zeros(1, len(x) // 2))
    qkv = torch.cat([x, x, x]).view(1, -1).to(DEVICE)
    placed = on_device(cache)
    TRITON.rotate_and_write(qkv, on_device(rope), placed, on_device(batch))
    return placed.values[0, 0, 0, :count].cpu()

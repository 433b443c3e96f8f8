"""The reference and the CPU backend against a dense computation."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cpu import CpuBackend
from kernels.interface import LayerCache, RopeTable
from kernels.reference import ReferenceBackend
from tests.kernels.batches import KernelCase, random_case, rows_alone, tiled_for
from tests.kernels.dense import dense_attend

CPU_CACHES = [torch.float32, torch.bfloat16]
CASES = st.builds(
    random_case,
    st.integers(0, 2**31),
    cache_dtype=st.sampled_from(CPU_CACHES),
    num_loops=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    head_dim=st.sampled_from([2, 16, 24, 64]),
    block_size=st.sampled_from([1, 3, 4, 16, 32]),
    window=st.integers(1, 20),
    floors=st.booleans(),
    fewer_loops=st.booleans(),
    lengths=st.just((9, 1, 50)),
    new_rows=st.sampled_from([(1, 1, 1), (9, 1, 50), (2, 1, 33)]),
)


def attend(backend, case: KernelCase) -> torch.Tensor:
    cache = cpu_cache(case.cache) if isinstance(backend, CpuBackend) else case.cache
    return backend.attend(cache, case.queries, case.gates, case.batch)


def cpu_cache(cache: LayerCache) -> LayerCache:
    """The same keys as the CPU backend lays them out: transposed within their block."""
    keys = cache.keys.transpose(2, 3).contiguous().view(cache.keys.shape)
    return replace(cache, keys=keys)


def keys_of_cpu_cache(cache: LayerCache) -> torch.Tensor:
    blocks, heads, block_size, head_dim = cache.keys.shape
    return cache.keys.view(blocks, heads, head_dim, block_size).transpose(2, 3)


@settings(max_examples=15, deadline=None)
@given(case=CASES)
def test_reference_equals_the_dense_formula(case):
    dense = dense_attend(case)
    actual = attend(ReferenceBackend(), case).double()
    assert ((actual - dense.out).abs() <= dense.bound).all()


@settings(max_examples=60, deadline=None)
@given(case=CASES)
def test_cpu_equals_the_dense_formula(case):
    dense = dense_attend(case)
    actual = attend(CpuBackend(), tiled_for(CpuBackend(), case)).double()
    assert ((actual - dense.out).abs() <= dense.bound).all()


@pytest.mark.parametrize("cache_dtype", CPU_CACHES)
@pytest.mark.parametrize("backend", [CpuBackend(), ReferenceBackend()], ids=["cpu", "reference"])
def test_rows_are_written_rotated_into_their_slots_and_nowhere_else(backend, cache_dtype):
    case = random_case(1, cache_dtype=cache_dtype)
    rows, heads = case.queries.shape[:2]
    slots = case.batch.cache_slots.clone()
    slots[3] = -1
    batch = replace(case.batch, cache_slots=slots)
    angles = torch.randn(40, 8)
    rope = RopeTable(angles.cos(), angles.sin())
    qkv = torch.randn(rows, heads + 4, 16)
    cache = LayerCache(case.cache.keys.clone(), case.cache.values.clone())
    on_cpu = isinstance(backend, CpuBackend)
    cache = cpu_cache(cache) if on_cpu else cache
    queries = backend.rotate_and_write(qkv.flatten(1), rope, cache, batch)

    as_complex = (
        torch.complex(qkv[:, :, :8], qkv[:, :, 8:]) * torch.exp(1j * angles[batch.positions])[:, None]
    )
    rotated = torch.cat([as_complex.real, as_complex.imag], dim=2)
    torch.testing.assert_close(queries, rotated[:, :heads])
    expected_keys, expected_values = case.cache.keys.clone(), case.cache.values.clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected_keys[slot // 4, :, slot % 4] = rotated[row, heads : heads + 2].to(cache_dtype)
            expected_values[slot // 4, :, slot % 4] = qkv[row, heads + 2 :].to(cache_dtype)
    keys = keys_of_cpu_cache(cache) if on_cpu else cache.keys
    torch.testing.assert_close(keys[:-1], expected_keys[:-1])
    torch.testing.assert_close(cache.values[:-1], expected_values[:-1])


@pytest.mark.parametrize("cache_dtype", CPU_CACHES)
@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_a_cpu_row_is_bit_equal_alone_and_in_any_batch(head_dim, cache_dtype):
    case = random_case(
        3,
        num_loops=3,
        head_dim=head_dim,
        block_size=16,
        window=40,
        lengths=(700, 130, 5),
        new_rows=(300, 1, 5),
        group=3,
        cache_dtype=cache_dtype,
    )
    together = attend(CpuBackend(), tiled_for(CpuBackend(), case))
    for wanted in ([0], [299], list(range(17, 90)), [899], [900, 901, 902], [903]):
        assert torch.equal(attend(CpuBackend(), rows_alone(case, wanted)), together[wanted]), wanted


@pytest.mark.parametrize("cache_dtype", CPU_CACHES)
def test_cpu_does_not_read_keys_and_values_that_are_not_visible(cache_dtype):
    """Unwritten slots of a row's last and first blocks may hold NaN."""
    shape = {"block_size": 16, "head_dim": 16, "window": 5, "lengths": (21, 3), "new_rows": (2, 1)}
    case = random_case(5, num_loops=2, cache_dtype=cache_dtype, **shape)
    case = tiled_for(CpuBackend(), case)
    expected = attend(CpuBackend(), case)
    keys, values = case.cache.keys.clone(), case.cache.values.clone()
    for sequence, last in enumerate((20, 2)):
        block = case.batch.context_tables[sequence, last // 16]
        keys[block, :, last % 16 + 1 :] = torch.nan
        values[block, :, last % 16 + 1 :] = torch.nan
    poisoned = replace(case, cache=LayerCache(keys, values))
    assert torch.equal(attend(CpuBackend(), poisoned), expected)

"""The reference against a dense computation, the CPU backend against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cpu import CpuAttention
from kernels.interface import AttentionBatch, LayerCache
from kernels.reference import ReferenceAttention
from kernels.registry import attention_backend
from tests.kernels.batches import KernelCase, random_case

CASES = st.builds(
    random_case,
    st.integers(0, 2**31),
    num_loops=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    head_dim=st.sampled_from([2, 16, 24, 64]),
    block_size=st.sampled_from([1, 3, 4, 16, 32]),
    window=st.integers(1, 20),
    floors=st.booleans(),
    lengths=st.just((9, 1, 50)),
    new_rows=st.sampled_from([(1, 1, 1), (9, 1, 50), (2, 1, 33)]),
)


def dense_attend(case: KernelCase) -> torch.Tensor:
    """Float64 attention of every row over explicitly listed positions."""
    batch, cache = case.batch, case.cache
    block_size = cache.block_size
    group = case.queries.shape[1] // cache.keys.shape[1]

    def attend(row: int, table: torch.Tensor, low: int) -> torch.Tensor:
        heads = []
        for head in range(case.queries.shape[1]):
            query = case.queries[row, head].double()
            where = [
                (int(table[p // block_size]), p % block_size)
                for p in range(low, int(batch.positions[row]) + 1)
            ]
            keys = torch.stack([cache.keys[b, head // group, o] for b, o in where]).double()
            values = torch.stack([cache.values[b, head // group, o] for b, o in where]).double()
            heads.append((keys @ query / case.queries.shape[2] ** 0.5).softmax(0) @ values)
        return torch.stack(heads)

    rows = []
    for sequence in range(len(batch.row_starts) - 1):
        for row in range(int(batch.row_starts[sequence]), int(batch.row_starts[sequence + 1])):
            result = attend(row, batch.shared_tables[sequence], 0)
            loop = int(batch.loops[row])
            if loop:
                low = max(
                    int(batch.window_floor[sequence, loop - 1]), int(batch.positions[row]) - batch.window
                )
                gate = case.gates[row].double()[:, None]
                result = gate * result + (1 - gate) * attend(
                    row, batch.window_tables[sequence, loop - 1], low
                )
            rows.append(result)
    return torch.stack(rows)


@settings(max_examples=15, deadline=None)
@given(case=CASES)
def test_reference_equals_the_dense_formula(case):
    actual = ReferenceAttention().attend(case.cache, case.queries, case.gates, case.batch)
    torch.testing.assert_close(actual.double(), dense_attend(case), atol=2e-5, rtol=2e-5)


@settings(max_examples=60, deadline=None)
@given(case=CASES)
def test_cpu_equals_the_reference(case):
    expected = ReferenceAttention().attend(case.cache, case.queries, case.gates, case.batch)
    actual = CpuAttention().attend(case.cache, case.queries, case.gates, case.batch)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("backend", [CpuAttention(), ReferenceAttention()])
def test_write_puts_rows_into_their_slots_and_nowhere_else(backend):
    case = random_case(1)
    rows = len(case.batch.positions)
    slots = case.batch.slots.clone()
    slots[3] = -1
    batch = replace_slots(case.batch, slots)
    keys, values = torch.randn(2, rows, 2, 16)
    cache = LayerCache(case.cache.keys.clone(), case.cache.values.clone())
    backend.write(cache, keys, values, batch)
    expected_keys, expected_values = case.cache.keys.clone(), case.cache.values.clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected_keys[slot // 4, :, slot % 4] = keys[row]
            expected_values[slot // 4, :, slot % 4] = values[row]
    assert torch.equal(cache.keys, expected_keys)
    assert torch.equal(cache.values, expected_values)


def replace_slots(batch: AttentionBatch, slots: torch.Tensor) -> AttentionBatch:
    values = {name: getattr(batch, name) for name in AttentionBatch.__slots__}
    return AttentionBatch(**{**values, "slots": slots})


def rows_of(case: KernelCase, wanted: list[int]) -> torch.Tensor:
    """Attention of a few rows of one sequence, run as a batch of their own."""
    batch = case.batch
    sequence = next(s for s in range(len(batch.row_starts) - 1) if wanted[0] < int(batch.row_starts[s + 1]))
    alone = AttentionBatch(
        slots=batch.slots[wanted],
        positions=batch.positions[wanted],
        loops=batch.loops[wanted],
        row_starts=torch.tensor([0, len(wanted)], dtype=torch.int32),
        shared_tables=batch.shared_tables[sequence : sequence + 1],
        window_tables=batch.window_tables[sequence : sequence + 1],
        window_first=batch.window_first[sequence : sequence + 1],
        window_floor=batch.window_floor[sequence : sequence + 1],
        window=batch.window,
    )
    return CpuAttention().attend(case.cache, case.queries[wanted], case.gates[wanted], alone)


@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_a_cpu_row_is_bit_equal_alone_and_in_any_batch(head_dim):
    case = random_case(
        3, num_loops=3, head_dim=head_dim, block_size=16, window=40, lengths=(700, 130, 5), group=3
    )
    case = random_case(
        3,
        num_loops=3,
        head_dim=head_dim,
        block_size=16,
        window=40,
        lengths=(700, 130, 5),
        new_rows=(300, 1, 5),
        group=3,
    )
    together = CpuAttention().attend(case.cache, case.queries, case.gates, case.batch)
    for wanted in ([0], [299], [300, 301, 302], list(range(17, 90)), [899], [900, 901, 902], [903]):
        assert torch.equal(rows_of(case, wanted), together[wanted]), wanted


def test_registry_names_the_backends():
    assert attention_backend("auto").name == "cpu"
    assert attention_backend("reference").name == "reference"
    with pytest.raises(ValueError, match="choose auto, cpu, reference"):
        attention_backend("magic")

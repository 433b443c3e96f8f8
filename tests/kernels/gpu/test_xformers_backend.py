"""xFormers' masks say what ours do. Its operators need a GPU: here each is replaced by its own mask, in plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xformers.ops import fmha
from xformers.ops.fmha.attn_bias import AttentionBias, PagedBlockDiagonalPaddedKeysMask

from kernels.gpu.xformers_backend import Gathered, XformersBackend, cut_segments, plan_pass
from tests.kernels.batches import KernelCase, random_case, tiled_for
from tests.kernels.dense import dense_attend

CASES = st.builds(
    random_case,
    st.integers(0, 2**31),
    num_loops=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 8),
    head_dim=st.sampled_from([2, 16, 64]),
    block_size=st.sampled_from([1, 4, 16, 32]),
    window=st.integers(1, 64),
    floors=st.booleans(),
    fewer_loops=st.booleans(),
    lengths=st.tuples(st.integers(1, 90), st.integers(1, 300), st.integers(1, 20)),
    new_rows=st.sampled_from([(1, 1, 1), (9, 1, 20), (1, 33, 2)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)


def through_its_mask(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: AttentionBias
) -> torch.Tensor:
    """What the operator computes by its documentation, softmax(q·k/√d + mask)·v, ``[1, n, groups, heads, dim]``."""
    num_keys = keys.shape[1]
    if isinstance(bias, PagedBlockDiagonalPaddedKeysMask):
        num_keys = bias.block_tables.numel() * bias.page_size  # it is asked for as if nothing were paged
    mask = bias.materialize((1, queries.shape[1], num_keys))[0]
    keys, values = keys[:, : mask.shape[1]], values[:, : mask.shape[1]]
    scores = torch.einsum("bqghd,bkghd->bghqk", queries.float(), keys.float()) * queries.shape[-1] ** -0.5
    weights = (scores + mask).softmax(-1)
    return torch.einsum("bghqk,bkghd->bqghd", weights, values.float()).to(queries.dtype)


@pytest.mark.parametrize("reads_pages", [True, False])
@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_equals_the_dense_formula(reads_pages, case):
    backend = XformersBackend(reads_pages, through_its_mask)
    tiled = tiled_for(backend, case)
    dense = dense_attend(case)
    actual = backend.attend(tiled.cache, tiled.queries, tiled.gates, tiled.batch).double()
    # The shared part is rounded before it is mixed, so once more than in the other backends.
    extra = 2.0**-8 * dense.out.abs().amax() * 4 if tiled.queries.dtype == torch.bfloat16 else 0.0
    assert ((actual - dense.out).abs() <= dense.bound + extra).all()


def mask_of(plan: Gathered) -> torch.Tensor:
    """bool ``[queries, keys]``."""
    return plan.bias.materialize((len(plan.rows), len(plan.blocks))) == 0


def case_of_both_kinds() -> KernelCase:
    return tiled_for(
        XformersBackend(False),
        random_case(3, num_loops=3, window=5, lengths=(30, 41), new_rows=(1, 7), floors=True),
    )


def test_masks_are_the_plain_definition():
    case = case_of_both_kinds()
    batch = case.batch
    plan = plan_pass(batch, case.cache, reads_pages=False)
    segments = cut_segments(batch)
    assert sorted(row for s in segments for row in range(s.first_row, s.stop_row)) == list(
        range(len(batch.positions))
    )
    assert plan.windows is not None
    for part, of_loops in ((plan.contexts, range(3)), (plan.windows, range(1, 3))):
        assert isinstance(part, Gathered)
        places = list(zip(part.blocks.tolist(), part.offsets.tolist(), strict=True))
        mask = mask_of(part)
        for index, row in enumerate(part.rows.tolist()):
            seen = [place for place, visible in zip(places, mask[index].tolist(), strict=True) if visible]
            assert seen == wanted_keys(case, row, windows=part is plan.windows)
        assert set(batch.loops[part.rows].tolist()) == set(of_loops)


def wanted_keys(case: KernelCase, row: int, windows: bool) -> list[tuple[int, int]]:
    """(block, offset) of the keys that a row sees."""
    batch, size = case.batch, case.cache.block_size
    sequence = next(s for s, first, stop in batch.tiles.tolist() if first <= row < stop)
    position, loop, low, table = (
        int(batch.positions[row]),
        int(batch.loops[row]),
        0,
        batch.context_tables[sequence],
    )
    if windows:
        low = max(int(batch.window_floor[sequence, loop - 1]), position - batch.window)
        table = batch.window_tables[sequence, loop - 1]
    return [(int(table[p // size]), p % size) for p in range(low, position + 1)]


def test_a_pass_is_planned_once_for_all_layers(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "kernels.gpu.xformers_backend.plan_pass",
        lambda *arguments: calls.append(arguments) or plan_pass(*arguments),
    )
    backend, case = XformersBackend(False, through_its_mask), case_of_both_kinds()
    for _ in range(3):
        backend.attend(case.cache, case.queries, case.gates, case.batch)
    assert len(calls) == 1
    other = case_of_both_kinds()
    backend.attend(other.cache, other.queries, other.gates, other.batch)
    assert len(calls) == 2


@pytest.mark.parametrize("is_there", [True, False])
def test_pages_are_read_in_place_only_where_flash_attention_3_is(monkeypatch, is_there):
    monkeypatch.setattr(fmha.flash3.FwOp, "is_available", lambda: is_there)
    assert XformersBackend().reads_pages is is_there

"""Triton's attention against float64, within the error that its roundings explain; and its invariances, bit for bit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.gpu import launch
from kernels.gpu.triton_backend import TritonBackend
from tests.kernels.batches import KernelCase, random_case, rows_alone, tiled_for
from tests.kernels.dense import dense_attend
from tests.kernels.gpu.device import DEVICE, on_device

FORMATS = {
    "float32": (torch.float32, None),
    "float16": (torch.float16, None),
    "bfloat16": (torch.bfloat16, None),
    "bfloat16 over fp8": (torch.bfloat16, torch.uint8),
    "float16 over fp8": (torch.float16, torch.uint8),
    "float32 over bfloat16": (torch.float32, torch.bfloat16),
}
WALKED = 64
"""Contexts around multiples of this meet the edges of a kernel's steps."""

lengths = st.one_of(
    st.integers(1, 200), st.builds(lambda n, d: max(1, 64 * n + d), st.integers(0, 6), st.integers(-1, 1))
)


def attend(case: KernelCase, backend: TritonBackend | None = None) -> torch.Tensor:
    """On the device, tiled as the engine tiles; the result on the host."""
    backend = backend or TritonBackend()
    placed = on_device(tiled_for(backend, case))
    return backend.attend(placed.cache, placed.queries, placed.gates, placed.batch).cpu()


def assert_within_bound(case: KernelCase) -> None:
    dense = dense_attend(case)
    error = (attend(case).double() - dense.out).abs()
    worst = (error / dense.bound).max()
    assert (error <= dense.bound).all(), f"{worst:.2f} times the bound"


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_prefill_and_short_decode(name, data):
    dtype, cache_dtype = FORMATS[name]
    count = data.draw(st.integers(1, 3))
    assert_within_bound(
        random_case(
            data.draw(st.integers(0, 2**31)),
            num_loops=data.draw(st.integers(1, 4)),
            kv_heads=data.draw(st.integers(1, 2)),
            group=data.draw(st.integers(1, 8)),
            head_dim=data.draw(st.sampled_from([2, 24, 64, 96, 128, 256])),
            block_size=data.draw(st.sampled_from([1, 16, 32, 64, 128])),
            window=data.draw(st.integers(1, 64)),
            floors=data.draw(st.booleans()),
            fewer_loops=data.draw(st.booleans()),
            lengths=tuple(data.draw(lengths) for _ in range(count)),
            new_rows=tuple(data.draw(st.sampled_from([1, 1, 2, 17, 40])) for _ in range(count)),
            dtype=dtype,
            cache_dtype=cache_dtype,
        )
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_split_decode(name, data):
    dtype, cache_dtype = FORMATS[name]
    long = data.draw(st.one_of(st.integers(513, 3000), st.sampled_from([512 * 2, 512 * 2 + 1, 512 * 4 - 1])))
    case = random_case(
        data.draw(st.integers(0, 2**31)),
        num_loops=data.draw(st.integers(1, 4)),
        kv_heads=data.draw(st.integers(1, 2)),
        group=data.draw(st.integers(1, 8)),
        head_dim=data.draw(st.sampled_from([64, 96, 128])),
        block_size=data.draw(st.sampled_from([16, 128])),
        window=data.draw(st.integers(1, 64)),
        floors=data.draw(st.booleans()),
        fewer_loops=data.draw(st.booleans()),
        lengths=(long, data.draw(lengths), 512),
        new_rows=(1, 1, data.draw(st.sampled_from([1, 3]))),
        dtype=dtype,
        cache_dtype=cache_dtype,
    )
    assert len(tiled_for(TritonBackend(), case).batch.parts) > 0
    assert_within_bound(case)


def test_the_bound_is_tight_enough_to_see_a_wrong_window_edge():
    case = random_case(5, window=20, lengths=(90, 70), new_rows=(1, 9), head_dim=64, dtype=torch.bfloat16)
    wider = replace(case, batch=replace(case.batch, window=21))
    dense = dense_attend(wider)
    assert ((attend(case).double() - dense.out).abs() > dense.bound).any()


def test_splitting_a_context_that_fits_one_part_changes_no_bit():
    case = random_case(
        7, num_loops=3, group=3, head_dim=64, window=30, lengths=(500, 33, 1), new_rows=(1, 1, 1)
    )
    tiled = tiled_for(TritonBackend(), case)
    parts = [(tile, part) for tile in range(3) for part in (0, 1)]
    split = replace(
        tiled.batch,
        parts=torch.tensor([*parts, (-1, -1)], dtype=torch.int32),
        part_starts=torch.tensor([0, 2, 4], dtype=torch.int32),
    )
    placed = on_device(replace(tiled, batch=split))
    actual = TritonBackend().attend(placed.cache, placed.queries, placed.gates, placed.batch)
    assert torch.equal(actual.cpu(), attend(case))


def test_wide_tiles_are_split_even_if_the_context_is_short():
    """Their sums don't fit a program's registers twice, so only the split kernels ever decode them."""
    case = random_case(23, num_loops=4, kv_heads=1, group=12, head_dim=256, lengths=(30, 9), new_rows=(1, 1))
    tiled = tiled_for(TritonBackend(), case)
    assert tiled.batch.parts.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert_within_bound(case)


@pytest.mark.parametrize("long", [400, 1400])
def test_a_row_is_bit_equal_alone_and_in_any_batch(long):
    case = random_case(
        *(3,),
        num_loops=3,
        head_dim=64,
        block_size=16,
        window=40,
        group=3,
        lengths=(long, 130, 5),
        new_rows=(1, 70, 1),
    )
    together = attend(case)
    alone = [[0, 1, 2], [0], [1], list(range(13, 73)), [213, 214, 215]]
    # A prefill row alone is a decode tile: the same sums in the same order, in another instruction of a tensor core.
    alone += [[72]] if DEVICE.type == "cpu" else []
    for wanted in alone:
        assert torch.equal(attend(rows_alone(case, wanted)), together[wanted]), wanted


def test_keys_with_a_score_of_minus_infinity_weigh_nothing():
    case = random_case(11, lengths=(40, 30), new_rows=(1, 4), head_dim=64)
    queries = case.queries.abs()
    without = replace(case, queries=queries)
    keys = case.cache.keys.clone()
    block, offset = int(case.batch.context_tables[0, 2]), 1
    keys[block, :, offset] = -torch.inf
    with_key = replace(without, cache=replace(case.cache, keys=keys))
    dense = dense_attend(with_key)
    assert dense.out.isfinite().all()
    actual = attend(with_key).double()
    assert actual.isfinite().all()
    torch.testing.assert_close(actual, dense.out, atol=1e-5, rtol=1e-5)
    keys[:, :, :] = -torch.inf
    assert attend(replace(without, cache=replace(case.cache, keys=keys))).isnan().all()


def test_nothing_outside_a_rows_keys_is_read():
    """Poison every slot that no row of the batch may see."""
    case = random_case(
        13, num_loops=3, lengths=(45, 700, 9), new_rows=(9, 1, 1), window=6, floors=True, head_dim=64
    )
    seen = torch.zeros(case.cache.keys.shape[0], case.cache.block_size, dtype=torch.bool)
    batch = case.batch
    for sequence, first, stop in batch.tiles.tolist():
        for row in range(first, stop):
            loop, position = int(batch.loops[row]), int(batch.positions[row])
            for p in range(position + 1):
                seen[batch.context_tables[sequence, p // 4], p % 4] = True
            if loop:
                low = max(int(batch.window_floor[sequence, loop - 1]), position - batch.window)
                for p in range(low, position + 1):
                    seen[batch.window_tables[sequence, loop - 1, p // 4], p % 4] = True
    expected = attend(case)
    for stored in (case.cache.keys, case.cache.values):
        stored[(~seen)[:, None, :, None].expand_as(stored)] = torch.nan
    assert torch.equal(attend(case), expected)


def test_a_broken_row_breaks_no_other_sequence():
    case = random_case(17, lengths=(30, 31), new_rows=(1, 5))
    expected = attend(case)
    case.cache.values[case.batch.context_tables[0, 0].long()] = torch.nan
    actual = attend(case)
    assert actual[:2].isnan().all()
    assert torch.equal(actual[2:], expected[2:])


@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_launches_divide_the_work_evenly(head_dim, element_bytes):
    for lanes in range(1, 65):
        decode = launch.decode_launch(head_dim, element_bytes, lanes)
        assert decode.lanes >= max(lanes, 16)
        assert launch.SPLIT_KEYS % decode.keys == 0
        assert decode.keys >= 16
        prefill = launch.prefill_launch(head_dim, element_bytes, lanes)
        assert prefill.lanes >= lanes
        assert prefill.keys == decode.keys, "prefill and decode add up a row's keys in the same order"
        assert math.log2(prefill.lanes).is_integer()


def test_lanes_beyond_a_tile_write_nothing():
    case = tiled_for(TritonBackend(), random_case(19, lengths=(20,), new_rows=(7,), num_loops=1, group=3))
    tiles = case.batch.tiles.clone()
    tiles[0, 2] = 4
    placed = on_device(replace(case, batch=replace(case.batch, tiles=tiles)))
    guard = torch.from_numpy(np.full((7, 6, 16), 7.0, np.float32)).to(DEVICE)
    backend = TritonBackend()
    whole = backend.attend(placed.cache, placed.queries, placed.gates, placed.batch)
    backend._attend_tiles(
        *(placed.cache, placed.queries, placed.gates, placed.batch, guard),
        *(launch.prefill_launch(16, 4, 3), 0, 1),
    )
    assert (guard[4:] == 7).all()
    assert torch.equal(guard[:4].flatten(1), whole[:4])

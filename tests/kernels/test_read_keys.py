"""Every backend reads back, position after position, the keys that it has written."""

from dataclasses import replace

import pytest
import torch

from kernels import e4m3
from kernels.interface import LayerCache, RopeTable
from kernels.reference import ReferenceBackend
from kernels.registry import load_backend
from tests.kernels.batches import random_case

LENGTH, BLOCK = 30, 4
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.uint8: 2**-3}
"""Of a stored key, relative to the largest."""


def rope_of(head_dim: int) -> RopeTable:
    angles = torch.arange(64)[:, None] * 100.0 ** (-torch.arange(head_dim // 2) / head_dim * 2)
    return RopeTable(angles.cos(), angles.sin())


@pytest.mark.parametrize(
    ("name", "cache_dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        ("reference", torch.float32),
        ("reference", torch.bfloat16),
        ("reference", torch.uint8),
        ("triton", torch.float32),
        ("triton", torch.bfloat16),
        ("triton", torch.uint8),
    ],
)
def test_keys_are_those_that_were_written(name, cache_dtype):
    case = random_case(
        3, lengths=(LENGTH, 9), new_rows=(LENGTH, 9), num_loops=2, block_size=BLOCK, cache_dtype=cache_dtype
    )
    heads, kv_heads, head_dim = case.queries.shape[1], case.cache.num_kv_heads, case.cache.head_dim
    rows = len(case.queries)
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * head_dim, generator=torch.Generator().manual_seed(0))
    rope, backend = rope_of(head_dim), load_backend(name)
    backend.rotate_and_write(qkv, rope, case.cache, case.batch)
    # The reference's rotation is checked against the oracle elsewhere; here only where its keys are found matters.
    exact = ReferenceBackend()
    plain = LayerCache(*(torch.zeros(case.cache.keys.shape) for _ in range(2)))
    exact.rotate_and_write(qkv, rope, plain, case.batch)
    slots = case.batch.cache_slots.long()
    written = plain.keys[slots // BLOCK, :, slots % BLOCK]
    for rows_of in (slice(0, LENGTH), slice(-9, None)):  # the first sequence's context, the second's window
        length = len(written[rows_of])
        blocks = (slots[rows_of] // BLOCK)[::BLOCK].tolist()
        found = backend.read_keys(case.cache, blocks)
        assert found.dtype == torch.float32
        assert found.shape == (kv_heads, len(blocks) * BLOCK, head_dim)
        truth = written[rows_of].transpose(0, 1)
        error = (found[:, :length] - truth).abs().max() / truth.abs().max()
        assert error <= ROUNDING[cache_dtype]


def test_scales_of_an_e4m3_cache_are_heeded():
    case = random_case(1, cache_dtype=torch.uint8)
    blocks = [2, 0]
    found = ReferenceBackend().read_keys(case.cache, blocks)
    assert case.cache.key_scales is not None
    doubled = replace(case.cache, key_scales=2 * case.cache.key_scales)
    torch.testing.assert_close(ReferenceBackend().read_keys(doubled, blocks), 2 * found)
    one = e4m3.decode(case.cache.keys[2], case.cache.key_scales)
    torch.testing.assert_close(found[:, : one.shape[1]], one)

"""bfloat16 bits: torch's rounding, and exact widening of any number of elements."""

import numba
import numpy as np
import pytest
import torch

from kernels.bfloat16 import bfloat16_bits, widen_bfloat16


@numba.njit
def widen(source: int, target: int, count: int) -> None:
    widen_bfloat16(source, target, count)


def test_rounding_is_torchs() -> None:
    values = torch.randn(2000) * 10.0 ** torch.randint(-38, 38, (2000,))
    ties = (torch.arange(1, 200, dtype=torch.int32) * 0x8000 + 0x3F800000).view(torch.float32)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3.4e38, 1e-45, torch.nan])
    for value in torch.cat([values, ties, special]):
        expected = value.to(torch.bfloat16)
        actual = torch.tensor([bfloat16_bits(np.float32(value.item()))], dtype=torch.uint16).view(
            torch.bfloat16
        )
        assert torch.equal(actual[0], expected) or (actual.isnan().all() and expected.isnan())


@pytest.mark.parametrize("count", [1, 5, 16, 37, 1024])
def test_widening_is_exact_and_writes_no_more(count: int) -> None:
    source = torch.randn(count).to(torch.bfloat16)
    source[0] = torch.nan
    target = np.full(count + 1, 7.0, np.float32)
    widen(source.data_ptr(), target.ctypes.data, count)
    np.testing.assert_array_equal(target[:-1], source.float().numpy())
    assert target[-1] == 7.0

"""Packed products: right, and the same for a row whatever the batch."""

import pytest
import torch

from kernels.linear import PackedLinears

SHAPES = [(64, 48), (256, 768), (768, 256), (1024, 300), (2816, 1024)]


@pytest.mark.parametrize(("in_features", "out_features"), SHAPES)
def test_product_equals_float64(in_features, out_features):
    torch.manual_seed(0)
    weight, bias, x = (
        torch.randn(out_features, in_features),
        torch.randn(out_features),
        torch.randn(5, in_features),
    )
    actual = PackedLinears()(weight, bias)(x)
    expected = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(actual.double(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("in_features", "out_features"), SHAPES)
def test_rows_are_bit_equal_for_any_row_count(in_features, out_features):
    torch.manual_seed(1)
    linear = PackedLinears()(torch.randn(out_features, in_features), None)
    x = torch.randn(333, in_features)
    everything = linear(x)
    for rows in (1, 2, 3, 4, 5, 7, 8, 11, 16, 33, 64, 100, 257):
        assert torch.equal(linear(x[:rows]), everything[:rows]), rows
        assert torch.equal(linear(x[-rows:].contiguous()), everything[-rows:]), rows


def test_empty_batches_pass():
    linear = PackedLinears()(torch.randn(8, 4), None)
    linear.min_rows = 4
    assert linear(torch.empty(0, 4)).shape == (0, 8)

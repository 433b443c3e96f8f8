"""The CPU's products against float64, for every stored format, and their independence of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.microkernel import PANEL, RegisterTile, register_tile
from kernels.panel_linear import DEPTH, MOST_ROWS, PanelLinear, _dealt
from kernels.weight_formats import INT4_GROUP, INT8_GROUP, WeightFormat, pack

FORMATS: tuple[WeightFormat, ...] = ("float32", "bfloat16", "int8", "int4")
TOLERANCES = {"float32": 0.0, "bfloat16": 2**-8, "int8": 1 / 127, "int4": 1 / 8}
"""Largest change of a weight by its format, against the largest magnitude among those that share its scale."""
EPSILON = 2.0**-23


def weights(out_features: int, in_features: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(out_features * 10_000 + in_features)
    return torch.randn(out_features, in_features, generator=generator)


def unpacked(linear: PanelLinear) -> torch.Tensor:
    """The weights that a product really uses: it multiplies each with a one, and sums nothing else."""
    return linear(torch.eye(linear.in_features)).T.contiguous()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    in_features=st.integers(1, 3 * DEPTH),
    out_features=st.integers(1, 3 * PANEL),
    with_bias=st.booleans(),
)
def test_float32_product_equals_float64_to_the_rounding_of_its_sum(
    rows: int, in_features: int, out_features: int, with_bias: bool
) -> None:
    weight, x = weights(out_features, in_features), weights(rows, in_features)
    bias = weights(1, out_features)[0] if with_bias else None
    actual = PanelLinear(weight, bias, "float32")(x).double()
    expected = x.double() @ weight.double().T
    size = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        expected, size = expected + bias, size + bias.abs()
    assert ((actual - expected).abs() <= (in_features + 2) * EPSILON * size).all()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("out_features", "in_features"), [(PANEL, DEPTH), (PANEL + 3, 2 * DEPTH + 5), (5, 7)]
)
def test_stored_weights_are_near_the_given_ones(
    format: WeightFormat, out_features: int, in_features: int
) -> None:
    weight = weights(out_features, in_features)
    error = (unpacked(PanelLinear(weight, None, format)) - weight).abs()
    group = {"int8": INT8_GROUP, "int4": INT4_GROUP}.get(format, 1)
    for start in range(0, in_features, group):
        peak = weight[:, start : start + group].abs().amax(1, keepdim=True)
        assert (error[:, start : start + group] <= TOLERANCES[format] * peak * (1 + 1e-5)).all()


def test_bfloat16_weights_are_kept_exactly() -> None:
    weight = weights(70, 130).bfloat16()
    linear = PanelLinear(weight, None, "bfloat16")
    assert torch.equal(unpacked(linear), weight.float())
    x = weights(3, 130)
    assert torch.equal(linear(x), PanelLinear(weight.float(), None, "float32")(x))


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_integers_keep_the_peak_of_each_group_exactly_and_zero_groups_zero(format: WeightFormat) -> None:
    weight = weights(3, 300)
    weight[1] = 0
    kept = unpacked(PanelLinear(weight, None, format))
    for start in range(0, 300, INT4_GROUP if format == "int4" else INT8_GROUP):
        cells = slice(start, start + (INT4_GROUP if format == "int4" else INT8_GROUP))
        for row in range(3):
            peak = weight[row, cells].abs().argmax() + start
            assert kept[row, peak] == pytest.approx(weight[row, peak].item(), rel=1e-6)
    assert not kept[1].any()


@pytest.mark.parametrize("format", FORMATS)
def test_rows_do_not_depend_on_how_many_there_are(format: WeightFormat) -> None:
    linear = PanelLinear(weights(2 * PANEL + 1, 3 * DEPTH + 1), None, format)
    x = weights(2 * MOST_ROWS + 7, linear.in_features)
    expected = linear(x)
    for rows in [*range(1, 33), MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1]:
        assert torch.equal(linear(x[:rows]), expected[:rows])
        assert torch.equal(linear(x[-rows:]), expected[-rows:])


def test_a_row_that_is_not_a_number_spoils_only_itself() -> None:
    linear = PanelLinear(weights(PANEL + 1, 9), None, "float32")
    x = weights(8, 9)
    expected = linear(x)
    x[3] = torch.nan
    actual = linear(x)
    assert actual[3].isnan().all()
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(actual[others], expected[others])


def test_no_rows() -> None:
    assert PanelLinear(weights(5, 7), None, "float32")(torch.empty(0, 7)).shape == (0, 5)


def test_packed_sizes() -> None:
    weight = weights(4 * PANEL, 256)
    sizes = [pack(weight, format).num_bytes / weight.numel() for format in FORMATS]
    assert sizes == [4, 2, 1 + 4 / INT8_GROUP, 0.5 + 4 / INT4_GROUP]


@given(lines=st.sampled_from([2, 4, 8, 16]), visits=st.integers(1, 16))
def test_prefetches_cover_what_comes_next(lines: int, visits: int) -> None:
    number, asking = _dealt(lines, visits)
    assert asking <= visits
    assert lines <= number * asking < lines + number


@pytest.mark.parametrize(
    ("features", "registers"), [({"avx512f": True, "avx": True}, 32), ({"avx": True}, 16), ({}, 32)]
)
def test_register_tile_fits_the_registers(features: dict[str, bool], registers: int) -> None:
    tile: RegisterTile = register_tile(features)
    assert tile.rows * tile.vectors + tile.vectors + 1 <= registers


def test_scales_of_a_part_of_a_group() -> None:
    packed = pack(weights(1, INT8_GROUP + 1), "int8")
    assert packed.scales.shape[1] == 2
    assert np.isfinite(packed.scales).all()

"""RoPE tables against transformers' numbers and against the oracle."""

from typing import Any

import pytest
import torch

from engine.config import parse_config
from engine.rope import build_rope_table
from tests.make_checkpoint import random_config
from tests.oracle import rope_tables

YARN_8 = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024}
LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 512,
}
# (rope_scaling, table length, inverse frequencies, cos/sin factor) as computed by transformers 5.23.0 for head_dim 16,
# theta 10000, max_position_embeddings 2048, rounded to seven digits.
TRANSFORMERS: list[tuple[dict[str, Any] | None, int, list[float], float]] = [
    (None, 2048, [10 ** (-index / 2) for index in range(8)], 1.0),
    (
        {"type": "linear", "factor": 4.0},
        2048,
        [0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        1.0,
    ),
    ({"type": "dynamic", "factor": 3.0}, 2048, [10 ** (-index / 2) for index in range(8)], 1.0),
    (
        {"type": "dynamic", "factor": 3.0},
        4096,
        [1.0, 0.2594128, 0.06729501, 0.01745719, 0.004528618, 0.001174782, 0.0003047534, 7.905695e-05],
        1.0,
    ),
    (
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        2048,
        [1.0, 0.2569351, 0.0625, 0.01383497, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
        1.138629436,
    ),
    (
        {**YARN_8, "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0},
        2048,
        [1.0, 0.3162278, 0.1, 0.01654831, 0.00125, 0.0003952847, 0.000125, 3.952847e-05],
        1.207944154,
    ),
    (
        {**YARN_8, "mscale": 1.0, "mscale_all_dim": 0.5},
        2048,
        [1.0, 0.3162278, 0.078125, 0.01778781, 0.0034375, 0.0003952847, 0.000125, 3.952847e-05],
        1.094179988,
    ),
    (
        {**YARN_8, "attention_factor": 0.9},
        2048,
        [1.0, 0.3162278, 0.078125, 0.01778781, 0.0034375, 0.0003952847, 0.000125, 3.952847e-05],
        0.9,
    ),
    (LLAMA3, 2048, [1.0, 0.3162278, 0.1, 0.01849668, 0.00125, 0.0003952847, 0.000125, 3.952847e-05], 1.0),
]


@pytest.mark.parametrize(("scaling", "length", "frequencies", "magnitude"), TRANSFORMERS)
def test_tables_are_transformers(
    scaling: dict[str, Any] | None, length: int, frequencies: list[float], magnitude: float
) -> None:
    config = parse_config(random_config(max_position_embeddings=2048, rope_scaling=scaling))
    rope = build_rope_table(config, length, torch.device("cpu"))
    cos, sin = rope.cos, rope.sin
    assert cos.shape == sin.shape == (length, 8)
    assert cos.dtype == sin.dtype == torch.float32
    torch.testing.assert_close(cos.square() + sin.square(), torch.full_like(cos, magnitude**2))
    # Position 1 gives the frequency; the far end shows that it is that of every position.
    expected = torch.tensor(frequencies, dtype=torch.float64)
    torch.testing.assert_close(torch.atan2(sin[1], cos[1]).double(), expected, rtol=5e-7, atol=0)
    far = (length - 1) * expected
    torch.testing.assert_close(cos[-1].double(), far.cos() * magnitude, rtol=0, atol=2e-3)


@pytest.mark.parametrize("scaling", [entry[0] for entry in TRANSFORMERS])
@pytest.mark.parametrize(("head_dim", "theta"), [(4, 10000.0), (64, 500000.0), (128, 1e7)])
@pytest.mark.parametrize("length", [7, 3000])
def test_tables_are_the_oracles(
    scaling: dict[str, Any] | None, head_dim: int, theta: float, length: int
) -> None:
    values = random_config(
        max_position_embeddings=2048, rope_scaling=scaling, head_dim=head_dim, rope_theta=theta
    )
    rope = build_rope_table(parse_config(values), length, torch.device("cpu"))
    for table, reference in zip((rope.cos, rope.sin), rope_tables(values, length), strict=True):
        torch.testing.assert_close(table.double(), reference, rtol=0, atol=1e-7)

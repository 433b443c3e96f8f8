"""Cache costs against the published figures of LoopCoder-V2 in bfloat16."""

from engine.config import parse_config
from engine.kv_arithmetic import (
    carry_bytes_per_sequence,
    sequential_bytes_per_token,
    shared_bytes_per_token,
    window_bytes_per_sequence,
)
from tests.engine.test_config import RELEASED
from tests.make_checkpoint import random_config


def test_released_figures() -> None:
    config = parse_config(RELEASED)
    assert shared_bytes_per_token(config, 2) == 56 * 1024
    assert sequential_bytes_per_token(config, 2) == 112 * 1024
    assert round(window_bytes_per_sequence(config, 2) / 2**20, 2) == 3.55
    assert carry_bytes_per_sequence(config, 2) == 10 * 1024


def test_one_loop_costs_no_more_than_a_plain_model() -> None:
    config = parse_config(random_config(plt_num_loops=1))
    assert shared_bytes_per_token(config, 4) == sequential_bytes_per_token(config, 4) == 2 * 2 * 2 * 16 * 4
    assert window_bytes_per_sequence(config, 4) == carry_bytes_per_sequence(config, 4) == 0

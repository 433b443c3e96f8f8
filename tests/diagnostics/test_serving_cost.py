"""What loops cost to serve, by hand."""

from dataclasses import replace

from diagnostics.serving_cost import PROMPT_TOKENS, serving_costs
from engine.config import ModelConfig, parse_config
from engine.kv_arithmetic import layout_of
from scheduler.loop_layout import LoopLayout
from tests.family_configs import family_config
from tests.make_checkpoint import random_config


def costs_of(**changes: object) -> tuple[ModelConfig, list]:
    config = parse_config(random_config(**changes))
    loops = config.loops
    layout = LoopLayout(loops.num_loops, loops.offset, loops.window, config.num_layers, 16)
    return config, serving_costs(config, layout, cache_bytes=2, hidden_bytes=4)


def test_later_loops_cost_a_row_a_token_and_the_tail_of_a_prompt() -> None:
    config, costs = costs_of(plt_num_loops=3, plt_window_size=[8, 0])
    assert [cost.loops for cost in costs] == [1, 2, 3]
    assert [cost.decode_rows for cost in costs] == [1, 2, 3]
    assert [cost.decode_passes for cost in costs] == [1, 1, 1]
    tail = 8 * config.num_layers + 1
    assert [cost.prompt_rows - PROMPT_TOKENS for cost in costs] == [0, tail, tail + 2 * tail]
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 2
    assert {cost.kv_bytes_per_token for cost in costs} == {per_token}
    beside = 9 * per_token + config.hidden_size * 4
    assert [cost.bytes_per_sequence for cost in costs] == [0, beside, 2 * beside]


def test_without_an_offset_each_loop_is_a_pass_of_its_own() -> None:
    _, costs = costs_of(plt_num_loops=3, plt_clp_shift=0)
    assert [cost.decode_passes for cost in costs] == [1, 2, 3]


def test_no_number_of_loops_depends_on_how_many_follow() -> None:
    config, costs = costs_of(plt_num_loops=4)
    fewer = replace(config, loops=replace(config.loops, num_loops=2))
    layout = LoopLayout(2, config.loops.offset, config.loops.window, config.num_layers, 16)
    assert serving_costs(fewer, layout, 2, 4) == costs[:2]


def test_a_loop_that_keeps_its_own_keys_costs_as_much_cache_and_prompt_as_the_first() -> None:
    config = parse_config(family_config("ouro"))
    costs = serving_costs(config, layout_of(config, 16), cache_bytes=2, hidden_bytes=4)
    assert [cost.decode_passes for cost in costs] == [1, 2, 3, 4]
    assert [cost.prompt_rows for cost in costs] == [loops * PROMPT_TOKENS for loops in (1, 2, 3, 4)]
    one = costs[0].kv_bytes_per_token
    assert [cost.kv_bytes_per_token for cost in costs] == [one, 2 * one, 3 * one, 4 * one]

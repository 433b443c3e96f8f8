"""The engine against the float64 oracle: every loop count, gate, window, chunk, block size, batch and cache state."""

from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import load_config
from engine.options import EngineOptions
from engine.placement import resolve_placement
from engine.runner import block_bytes
from scheduler.loop_layout import LoopLayout
from tests import oracle
from tests.engine.harness import Answer, Checkpoint, Driver, checkpoint

ATOL = 2e-4
"""float32 round-off of log-probabilities of these O(1) logits; a wrong window, shift or gate is off by 0.01 to 1."""


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 320, (length,), generator=generator).tolist()


def oracle_logprobs(model: Checkpoint, tokens: list[int]) -> torch.Tensor:
    return oracle.forward(model.config, model.tensors, tokens).log_softmax(-1)


def assert_exact(model: Checkpoint, prompt: list[int], answer: Answer) -> None:
    """Every reported log-probability is the oracle's, and every greedy token is its best (or ties with it)."""
    expected = oracle_logprobs(model, prompt + answer.tokens)
    for number, (token, reported) in enumerate(zip(answer.tokens, answer.logprobs, strict=True)):
        row = expected[len(prompt) + number - 1]
        assert reported.token_id == token
        assert reported.logprob == pytest.approx(float(row[token]), abs=ATOL)
        for other, logprob in reported.top:
            assert logprob == pytest.approx(float(row[other]), abs=ATOL)
        assert float(row.max() - row[token]) < ATOL
    for position, reported in enumerate(answer.prompt_logprobs):
        if position == 0:
            assert reported is None
            continue
        assert reported is not None
        assert reported.logprob == pytest.approx(float(expected[position - 1, prompt[position]]), abs=ATOL)


@cache
def model_of(loops: int, window: int, on_hidden: bool, **_: object) -> Checkpoint:
    return checkpoint(plt_num_loops=loops, plt_window_size=[window, 0], plt_gate_use_hidden_states=on_hidden)


@pytest.mark.parametrize("window", [1, 3, 16, 64])
@pytest.mark.parametrize("on_hidden", [True, False])
@pytest.mark.parametrize("loops", [1, 2, 3, 4])
def test_loops_gates_and_windows(loops, on_hidden, window):
    model = model_of(loops, window, on_hidden)
    for execution in ("parallel", "sequential"):
        driver = model.driver(execution=execution, max_rows_per_step=32)
        for number, length in enumerate((1, 2, 37, 150)):
            driver.add(str(number), prompt_of(length, number), logprobs=5, max_tokens=6)
        driver.add("all", prompt_of(90), logprobs=0, prompt_logprobs=3, max_tokens=3)
        answers = driver.run()
        for number, length in enumerate((1, 2, 37, 150)):
            assert_exact(model, prompt_of(length, number), answers[str(number)])
        assert len(answers["all"].prompt_logprobs) == 90
        assert_exact(model, prompt_of(90), answers["all"])


VARIANTS = {
    "tied": {"tie_word_embeddings": True},
    "no norm between loops": {"plt_normalize_per_loop": False, "plt_hidden_scale": 0.2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "no shift": {"plt_clp_shift": 0},
    "scales left out": {"plt_emb_scale": None, "plt_hidden_scale": None},
    "multi-head": {"num_key_value_heads": 4},
    "multi-query, odd width": {
        "num_key_value_heads": 1,
        "hidden_size": 52,
        "intermediate_size": 75,
        "head_dim": 10,
    },
    "linear rope": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic rope": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "yarn rope": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    },
    "llama3 rope": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("loops", [1, 2, 3])
def test_config_variants(name, loops):
    model = checkpoint(seed=3, plt_num_loops=loops, **VARIANTS[name])
    for execution in ("parallel", "sequential"):
        driver = model.driver(execution=execution, max_rows_per_step=16)
        driver.add("a", prompt_of(70), logprobs=5, max_tokens=5)
        driver.add("b", prompt_of(9), logprobs=5, prompt_logprobs=1, max_tokens=5)
        answers = driver.run()
        assert_exact(model, prompt_of(70), answers["a"])
        assert_exact(model, prompt_of(9), answers["b"])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    loops=st.integers(1, 4),
    on_hidden=st.booleans(),
    window=st.sampled_from([1, 3, 8]),
    block_size=st.integers(1, 32),
    spare_rows=st.integers(0, 40),
    execution=st.sampled_from(["parallel", "sequential"]),
    backend=st.sampled_from(["cpu", "reference"]),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    prefix_caching=st.booleans(),
    stagger=st.integers(0, 3),
)
def test_any_chunking_blocks_and_crowd(
    loops, on_hidden, window, block_size, spare_rows, execution, backend, lengths, prefix_caching, stagger
):
    model = model_of(loops, window, on_hidden)
    driver = model.driver(
        block_size=block_size,
        max_rows_per_step=4 * loops + spare_rows,
        execution=execution,
        attention_backend=backend,
        prefix_caching=prefix_caching,
    )
    prompts = {str(number): prompt_of(60)[:length] for number, length in enumerate(lengths)}
    for name, prompt in prompts.items():
        driver.add(name, prompt, logprobs=2, max_tokens=4)
        for _ in range(stagger):
            driver.step()
    answers = driver.run()
    for name, prompt in prompts.items():
        assert_exact(model, prompt, answers[name])


class ShorterTail(LoopLayout):
    """Starts every later loop one position too late."""

    def tail_starts(self, length: int) -> tuple[int, ...]:
        starts = super().tail_starts(length)
        return (0, *(start + 1 for start in starts[1:]))


@pytest.mark.parametrize("loops", [2, 3])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_the_tail_is_exact_and_one_token_less_is_not(loops, window):
    model = model_of(loops, window, on_hidden=True)
    prompt = prompt_of((2 * window + 1) * loops + 20)
    assert_exact(model, prompt, model.driver().one(prompt, logprobs=20, max_tokens=1))

    driver = model.driver()
    layout = driver.core.scheduler.layout
    assert layout.tail_starts(len(prompt))[1] > 0
    driver.core.scheduler.layout = ShorterTail(
        layout.num_loops, layout.offset, layout.window, layout.num_layers, layout.block_size
    )
    short = driver.one(prompt, logprobs=20, max_tokens=1)
    row = oracle_logprobs(model, prompt)[-1]
    error = max(abs(logprob - float(row[token])) for token, logprob in short.logprobs[0].top)
    assert error > 0, "the answer did not depend on the tail's first position"
    exact = model.driver().one(prompt, logprobs=20, max_tokens=1)
    exact_error = max(abs(logprob - float(row[token])) for token, logprob in exact.logprobs[0].top)
    assert error > 3 * exact_error


# The same request again, whatever else is going on: bit-equal log-probabilities, not merely close ones.


def signature(answer: Answer) -> tuple:
    return (
        tuple(answer.tokens),
        tuple((entry.logprob, tuple(entry.top)) for entry in answer.logprobs),
        answer.finish_reason,
    )


def alone(model: Checkpoint, prompt: list[int], **params) -> tuple:
    return signature(model.driver(prefix_caching=False).one(prompt, logprobs=3, **params))


def settle(driver: Driver) -> dict[str, tuple]:
    return {name: signature(answer) for name, answer in driver.run().items()}


SAMPLED = {"temperature": 1.0, "seed": 42, "top_p": 0.95, "top_k": 50}


@pytest.mark.parametrize("loops", [1, 2, 3])
@pytest.mark.parametrize("params", [{}, SAMPLED], ids=["greedy", "seeded"])
def test_bits_are_the_same_alone_and_in_any_crowd(loops, params):
    model = model_of(loops, 8, on_hidden=True)
    prompt = prompt_of(75)
    expected = alone(model, prompt, max_tokens=12, **params)
    for crowd in (1, 5, 11):
        for rows in (4 * loops, 23, 400):
            driver = model.driver(max_rows_per_step=rows, max_num_seqs=4)
            for number in range(crowd):
                driver.add(f"other {number}", prompt_of(5 + 17 * number, number), max_tokens=3 + 5 * number)
                driver.step()
            driver.add("mine", prompt, logprobs=3, max_tokens=12, **params)
            assert settle(driver)["mine"] == expected, (crowd, rows)


@pytest.mark.parametrize("loops", [1, 2, 3])
@pytest.mark.parametrize("block_size", [3, 4, 16])
def test_bits_are_the_same_cold_cached_and_evicted(loops, block_size):
    model = model_of(loops, 8, on_hidden=True)
    base = prompt_of(140)
    driver = model.driver(block_size=block_size)
    prompts = [
        base[:140],
        base[:139],
        base[:100] + prompt_of(30, 5),
        base[:20],
        base[:17] + prompt_of(90, 6),
        base[:140],
    ]
    for number, prompt in enumerate(prompts):
        expected = signature(
            model.driver(block_size=block_size, prefix_caching=False).one(prompt, logprobs=3, max_tokens=9)
        )
        driver.add(f"{number}", prompt, logprobs=3, max_tokens=9)
        assert settle(driver)[f"{number}"] == expected, number
        follow_up = prompt + driver.answers[f"{number}"].tokens + prompt_of(11, 7)
        expected = signature(
            model.driver(block_size=block_size, prefix_caching=False).one(follow_up, logprobs=3, max_tokens=9)
        )
        driver.add(f"{number}+", follow_up, logprobs=3, max_tokens=9)
        assert settle(driver)[f"{number}+"] == expected, number
    assert driver.answers["5"].cached_tokens > 100
    assert driver.answers["3"].cached_tokens >= 20 - block_size
    for number in range(40):  # push everything out
        driver.add(f"filler {number}", prompt_of(300, 100 + number), max_tokens=1)
    driver.run()
    driver.add("again", base, logprobs=3, max_tokens=9)
    again = settle(driver)["again"]
    assert again == settle_one(model, base, block_size)


def settle_one(model: Checkpoint, prompt: list[int], block_size: int) -> tuple:
    return signature(
        model.driver(block_size=block_size, prefix_caching=False).one(prompt, logprobs=3, max_tokens=9)
    )


@pytest.mark.parametrize("loops", [1, 2, 3])
@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("params", [{}, SAMPLED], ids=["greedy", "seeded"])
def test_bits_are_the_same_after_preemption(loops, prefix_caching, params):
    model = model_of(loops, 8, on_hidden=True)
    layout = model.core().scheduler.layout
    config = load_config(model.path, {})
    placement = resolve_placement(EngineOptions(model_dir="", device="cpu"), config)
    size = block_bytes(config, placement, layout.block_size, prefix_caching)
    driver = model.driver(
        max_rows_per_step=16,
        max_model_len=130,
        kv_cache_memory=size * (layout.blocks_for(130, 16) + 7),
        prefix_caching=prefix_caching,
    )
    prompts = {f"{number}": prompt_of(30 + number, number) for number in range(4)}
    for name, prompt in prompts.items():
        driver.add(name, prompt, logprobs=3, max_tokens=70, **params)
    answers = settle(driver)
    assert driver.core.scheduler.totals.preemptions > 0
    for name, prompt in prompts.items():
        expected = alone(model, prompt, max_tokens=70, **params)
        assert answers[name] == expected


def test_restoring_skips_the_rows_that_recomputing_needs():
    model = model_of(2, 8, on_hidden=True)
    prompt = prompt_of(200)
    driver = model.driver()
    driver.add("cold", prompt)
    driver.run()
    cold_rows = list(driver.core.rows_total)
    driver.add("warm", prompt + driver.answers["cold"].tokens)
    driver.run()
    warm_rows = [after - before for after, before in zip(driver.core.rows_total, cold_rows, strict=True)]
    assert cold_rows[0] >= 200
    assert cold_rows[1] == 8 * 2 + 1 + 7
    assert max(warm_rows) < 24, "windows and carry were not restored"


def test_freed_blocks_are_never_read_again():
    """Poison what is not held after every step: a use after free shows up as a NaN."""
    model = model_of(3, 3, on_hidden=True)
    driver = model.driver(prefix_caching=False)
    prompt = prompt_of(90)
    driver.add("a", prompt, logprobs=2, max_tokens=20)
    driver.add("b", prompt_of(31, 1), logprobs=2, max_tokens=5)
    while driver.core.has_work:
        driver.step()
        free = torch.tensor(driver.core.scheduler.blocks.free)
        for layer in driver.core.model.runner.state.caches:
            layer.keys[free] = torch.nan
            layer.values[free] = torch.nan
        driver.core.model.runner.state.carries[torch.tensor(driver.core.scheduler.carries.free)] = torch.nan
    assert_exact(model, prompt, driver.answers["a"])


def test_salts_keep_prefixes_apart():
    model = model_of(2, 8, on_hidden=True)
    driver = model.driver()
    prompt = prompt_of(100)
    for name, salt in (("a", "x"), ("b", "y"), ("c", "x")):
        driver.add(name, prompt, salt=salt)
        driver.run()
    assert [driver.answers[name].cached_tokens for name in "abc"] == [0, 0, 96]

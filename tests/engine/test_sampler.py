"""Sampling of one row: the right sets, the right frequencies, the same draw for the same (seed, counter)."""

import pytest
import torch

from engine.sampler import SamplingState, adjust, sample, token_logprob, uniform
from engine.sampling_params import SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def state_of(prompt: tuple[int, ...] = (0,), **values) -> SamplingState:
    params = SamplingParams(**{"max_tokens": 10, "seed": 0, **values})
    return SamplingState.begin(params, list(prompt), len(LOGITS))


def draws(count: int, **values) -> list[int]:
    drawn = []
    for seed in range(count):
        token = sample(LOGITS, state_of(seed=seed, **values))
        assert token is not None
        drawn.append(token)
    return drawn


def test_greedy_takes_the_best_and_the_first_of_equals():
    assert sample(LOGITS, state_of(temperature=0.0)) == 0
    assert sample(torch.zeros(6), state_of(temperature=0.0)) == 0
    assert sample(LOGITS, state_of(temperature=1e-6)) == 0


def test_uniform_is_in_range_reproducible_and_spread():
    numbers = [uniform(seed, counter) for seed in range(40) for counter in range(40)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert numbers == [uniform(seed, counter) for seed in range(40) for counter in range(40)]
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)
    assert uniform(2**64 - 1, 2**31) != uniform(2**64 - 2, 2**31)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_probabilities(temperature):
    drawn = draws(4000, temperature=temperature)
    for token, probability in enumerate((LOGITS / temperature).softmax(0).tolist()):
        assert drawn.count(token) / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 1000}, {0, 1, 2, 3, 4, 5}),
        ({"top_p": 0.01}, {0}),
        ({"top_p": 0.7}, {0, 1}),  # probabilities are .56 .21 .12 .08 .03 .00
        ({"top_p": 0.8}, {0, 1, 2}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"top_k": 4, "min_p": 0.3}, {0, 1}),
    ],
)
def test_filters_keep_exactly_the_right_tokens(values, kept):
    drawn = set(draws(3000, temperature=1.0, **values))
    assert drawn <= kept
    assert drawn == kept or len(kept) == 6


def test_penalties_follow_their_formulas():
    state = state_of(prompt=(1,), presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    for token in (0, 0, 4):
        state.count(token)
    expected = [2.0 / 2 - 0.5 - 0.5, 1.0 / 2, 0.5, 0.0, -1.0 * 2 - 0.25 - 0.5, -3.0]
    assert adjust(LOGITS, state).tolist() == pytest.approx(expected)


def test_bias_and_minimum_length():
    assert sample(LOGITS, state_of(temperature=0.0, logit_bias={5: 100.0})) == 5
    state = state_of(temperature=0.0, min_tokens=1, stop_token_ids=(0, 1))
    assert sample(LOGITS, state) == 2
    state.count(2)
    assert sample(LOGITS, state) == 0


def test_broken_logits_give_no_token():
    assert sample(torch.tensor([1.0, torch.nan]), state_of(temperature=0.0)) is None
    assert sample(torch.tensor([1.0, torch.inf]), state_of(temperature=1.0)) is None


def test_the_callers_logits_are_left_alone():
    logits = LOGITS.clone()
    sample(logits, state_of(logit_bias={1: 5.0}, presence_penalty=1.0, min_tokens=1, stop_token_ids=(0,)))
    assert torch.equal(logits, LOGITS)


def test_token_logprob_is_log_softmax():
    expected = LOGITS.log_softmax(0)
    entry = token_logprob(LOGITS, 3, 2)
    assert entry.logprob == pytest.approx(float(expected[3]))
    assert entry.top == [(0, pytest.approx(float(expected[0]))), (1, pytest.approx(float(expected[1])))]
    assert token_logprob(LOGITS, 0, 0).top == []

"""Every bound of a request's parameters is refused by its field's name, and the bound itself is accepted."""

import math

import pytest

from engine.errors import InvalidRequestError
from engine.sampling_params import (
    MAX_LOGIT_BIAS,
    MAX_STOP_TOKEN_IDS,
    SamplingParams,
    check_context_length,
    check_sampling_params,
    check_token_ids,
)

VOCAB = 2000
FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


def check(**values) -> None:
    check_sampling_params(SamplingParams(**{"max_tokens": 10, "seed": 0, **values}), VOCAB)


REFUSED = [
    ("max_tokens", -1),
    ("max_tokens", 2**31 + 1),
    ("min_tokens", -1),
    ("min_tokens", 11),
    ("temperature", -0.1),
    ("temperature", 100.5),
    ("top_k", -1),
    ("top_k", 2**31 + 1),
    ("top_p", 0.0),
    ("top_p", -0.1),
    ("top_p", 1.01),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("presence_penalty", -2.1),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("frequency_penalty", 2.1),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", 100.1),
    ("seed", -1),
    ("seed", 2**64),
    ("logprobs", -1),
    ("logprobs", 21),
    ("prompt_logprobs", -1),
    ("prompt_logprobs", 21),
    ("stop_token_ids", (-1,)),
    ("stop_token_ids", (VOCAB,)),
    ("stop_token_ids", (0,) * (MAX_STOP_TOKEN_IDS + 1)),
    ("logit_bias", {-1: 0.0}),
    ("logit_bias", {VOCAB: 0.0}),
    ("logit_bias", {0: 100.1}),
    ("logit_bias", {0: -100.1}),
    ("logit_bias", {0: math.nan}),
    ("logit_bias", dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 0.0)),
]
ACCEPTED = [
    {},
    {"max_tokens": 0},
    {"max_tokens": 2**31},
    {"min_tokens": 10},
    {"temperature": 0.0},
    {"temperature": 100.0},
    {"top_k": 2**31},
    {"top_p": 1e-9},
    {"min_p": 1.0},
    {"presence_penalty": -2.0, "frequency_penalty": 2.0},
    {"repetition_penalty": 100.0},
    {"seed": 2**64 - 1},
    {"logprobs": 0, "prompt_logprobs": 20},
    {"stop_token_ids": (VOCAB - 1,) * MAX_STOP_TOKEN_IDS},
    {"logit_bias": dict.fromkeys(range(MAX_LOGIT_BIAS), -100.0)},
]


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_what_is_out_of_bounds_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequestError, match=field) as refusal:
        check(**{field: value})
    assert refusal.value.param == field


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", FLOATS)
def test_what_is_no_number_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequestError, match=field) as refusal:
        check(**{field: value})
    assert refusal.value.param == field


@pytest.mark.parametrize("values", ACCEPTED)
def test_the_bounds_themselves_are_served(values):
    check(**values)


@pytest.mark.parametrize("ids", [[], [-1], [0, VOCAB]])
def test_bad_token_ids_are_refused_by_name(ids):
    with pytest.raises(InvalidRequestError, match="prompt") as refusal:
        check_token_ids("prompt", ids, VOCAB)
    assert refusal.value.param == "prompt"


def test_good_token_ids_are_served():
    check_token_ids("prompt", [0, VOCAB - 1], VOCAB)


def test_context_length_counts_prompt_and_answer():
    check_context_length(90, 10, 100, "messages")
    with pytest.raises(InvalidRequestError, match="maximum context length is 100 tokens") as refusal:
        check_context_length(91, 10, 100, "messages")
    assert (refusal.value.param, refusal.value.code) == ("messages", "context_length_exceeded")


@pytest.mark.parametrize(("temperature", "greedy"), [(0.0, True), (9e-6, True), (1e-5, False), (1.0, False)])
def test_tiny_temperatures_are_greedy(temperature, greedy):
    assert SamplingParams(max_tokens=1, seed=0, temperature=temperature).greedy is greedy


def test_a_number_too_large_for_a_float_is_refused_like_any_other() -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        check_sampling_params(SamplingParams(max_tokens=10**400, seed=0), 10)
    assert refusal.value.param == "max_tokens"

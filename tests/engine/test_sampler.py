"""Sampling: the right sets and frequencies, the same draw for the same (seed, counter) in any crowd."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import TokenLogprob
from engine.philox import uniform
from engine.sampler import (
    SCORED_ROWS,
    Draw,
    KnownToken,
    SampledBatch,
    SamplingState,
    adjust,
    pack,
    sample_batch,
    sample_step,
    to_host,
    unpack,
)
from engine.sampling_params import MAX_LOGPROBS, SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
CPU = torch.device("cpu")


def state_of(prompt: tuple[int, ...] = (0,), vocab_size: int = len(LOGITS), **values: Any) -> SamplingState:
    params = SamplingParams(**{"max_tokens": 10, "seed": 0, **values})
    return SamplingState.begin(params, list(prompt), vocab_size, CPU)


def choices(batch: SampledBatch) -> list[int | None]:
    rows = zip(batch.tokens.tolist(), batch.broken.tolist(), strict=True)
    return [None if broken else token for token, broken in rows]


def one(logits: torch.Tensor, state: SamplingState) -> int | None:
    """The choice of a row on its own."""
    return choices(sample_batch(logits.unsqueeze(0), [state]))[0]


def draws(count: int, **values: Any) -> list[int]:
    states = [state_of(seed=seed, **values) for seed in range(count)]
    batch = sample_batch(LOGITS.expand(count, -1).contiguous(), states)
    assert not batch.broken.any()
    return batch.tokens.tolist()


class Plain:
    """One row at a time in as few words as possible: what the batched sampler must agree with."""

    @staticmethod
    def sample(
        logits: torch.Tensor, state: SamplingState, outputs: list[int], prompt: list[int]
    ) -> int | None:
        params = state.params
        adjusted = Plain.adjust(logits, params, outputs, prompt)
        if not torch.isfinite(adjusted.max()):
            return None
        if params.greedy:
            return int(adjusted.argmax())
        return Plain.draw(adjusted, params, uniform(params.seed, len(outputs)))

    @staticmethod
    def adjust(
        logits: torch.Tensor, params: SamplingParams, outputs: list[int], prompt: list[int]
    ) -> torch.Tensor:
        logits = logits.clone()
        for token, bias in params.logit_bias.items():
            logits[token] += bias
        for token in {*prompt, *outputs}:
            penalty = params.repetition_penalty
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        counts = torch.bincount(torch.tensor(outputs, dtype=torch.int64), minlength=len(logits)).float()
        logits -= params.frequency_penalty * counts
        logits -= params.presence_penalty * (counts > 0)
        if len(outputs) < params.min_tokens:
            logits[list(params.stop_token_ids)] = -torch.inf
        return logits

    @staticmethod
    def draw(logits: torch.Tensor, params: SamplingParams, u: float) -> int:
        probs = (logits.double() / params.temperature).softmax(dim=0)
        if not (params.top_k or params.top_p < 1.0 or params.min_p > 0.0):
            return Plain.invert(probs, u)
        probs, ids = probs.sort(descending=True, stable=True)
        if params.top_k:
            probs = probs[: params.top_k]
        if params.top_p < 1.0:
            probs = probs[probs.cumsum(0) - probs < params.top_p * probs.sum()]
        if params.min_p > 0.0:
            probs = probs[probs >= params.min_p * probs[0]]
        return int(ids[Plain.invert(probs, u)])

    @staticmethod
    def invert(probs: torch.Tensor, u: float) -> int:
        cumulative = probs.cumsum(0)
        index = int(torch.searchsorted(cumulative, u * cumulative[-1], right=True))
        return min(index, len(probs) - 1)

    @staticmethod
    def logprob(logits: torch.Tensor, token: int, num_top: int) -> TokenLogprob:
        logprobs = logits.log_softmax(dim=0)
        values, ids = logprobs.topk(min(num_top, len(logprobs)))
        return TokenLogprob(
            token, float(logprobs[token]), list(zip(ids.tolist(), values.tolist(), strict=True))
        )


@st.composite
def request_params(draw: st.DrawFn, vocab_size: int) -> SamplingParams:
    """Any parameters; most requests use few of them."""
    tokens = st.integers(0, vocab_size - 1)

    def maybe(off: Any, values: st.SearchStrategy[Any]) -> Any:
        return draw(st.one_of(st.just(off), values))

    return SamplingParams(
        max_tokens=100,
        seed=draw(st.integers(0, 2**64 - 1)),
        min_tokens=maybe(0, st.integers(1, 6)),
        temperature=maybe(1.0, st.sampled_from([0.0, 0.3, 0.7, 2.0, 100.0])),
        top_p=maybe(1.0, st.sampled_from([1e-9, 0.31, 0.77, 0.95, 0.999])),
        top_k=maybe(0, st.integers(1, vocab_size + 5)),
        min_p=maybe(0.0, st.sampled_from([0.013, 0.21, 1.0])),
        repetition_penalty=maybe(1.0, st.sampled_from([0.8, 1.3])),
        presence_penalty=maybe(0.0, st.sampled_from([-0.5, 1.1])),
        frequency_penalty=maybe(0.0, st.sampled_from([-0.3, 0.7])),
        logit_bias=maybe({}, st.dictionaries(tokens, st.sampled_from([-100.0, -1.5, 2.5]), max_size=4)),
        stop_token_ids=tuple(maybe([], st.lists(tokens, max_size=3))),
        logprobs=maybe(None, st.integers(0, MAX_LOGPROBS)),
    )


@st.composite
def crowds(draw: st.DrawFn) -> tuple[torch.Tensor, list[SamplingState], list[list[int]], list[list[int]]]:
    """float32 ``[n, vocab]`` logits, and each row's state, tokens so far and prompt."""
    vocab_size = draw(st.sampled_from([5, 32, 101, 1030, 2500]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    all_params = draw(st.lists(request_params(vocab_size), min_size=1, max_size=9))
    logits = torch.randn(len(all_params), vocab_size, generator=generator) * draw(
        st.sampled_from([0.5, 3.0, 20.0])
    )
    if draw(st.booleans()):
        logits[torch.rand(logits.shape, generator=generator) < 0.4] = -torch.inf
        logits[:, -1] = 0.25  # at least one token left
    states, outputs, prompts = [], [], []
    for params in all_params:
        prompt, output = (
            torch.randint(vocab_size, (size,), generator=generator).tolist()
            for size in (4, draw(st.integers(0, 7)))
        )
        state = SamplingState.begin(params, prompt, vocab_size, CPU)
        for token in output:
            state.count(token)
        states.append(state)
        outputs.append(output)
        prompts.append(prompt)
    return logits, states, outputs, prompts


def test_greedy_takes_the_best_and_the_first_of_equals():
    assert one(LOGITS, state_of(temperature=0.0)) == 0
    assert one(torch.zeros(6), state_of(temperature=0.0)) == 0
    assert one(LOGITS, state_of(temperature=1e-6)) == 0
    ties = torch.randint(0, 4, (20, 3001), generator=torch.Generator().manual_seed(0)).float()
    batch = sample_batch(ties, [state_of(temperature=0.0)] * 20)
    assert torch.equal(batch.tokens, ties.argmax(dim=1))


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
        ({"top_p": 1e-300}, {0}),
        ({"top_p": 0.7}, {0, 1}),  # probabilities are .56 .21 .12 .08 .03 .00
        ({"top_p": 0.8}, {0, 1, 2}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 4, "min_p": 0.3}, {0, 1}),
        ({"top_k": 2, "top_p": 0.7}, {0}),  # .56 is more than .7 of what top-k left
    ],
)
def test_filters_keep_exactly_the_right_tokens(values, kept):
    drawn = set(draws(3000, temperature=1.0, **values))
    assert drawn <= kept
    assert drawn == kept or len(kept) == 6


def test_top_k_keeps_the_first_of_equals():
    states = [state_of(seed=seed, top_k=2) for seed in range(200)]
    assert set(sample_batch(torch.zeros(200, 6), states).tokens.tolist()) == {0, 1}


def test_masked_tokens_are_never_drawn():
    logits = torch.full((2000, 7), -torch.inf)
    logits[:, [2, 4]] = torch.tensor([0.0, 1.0])
    ways = [{}, {"top_p": 0.99}, {"top_k": 5}, {"min_p": 0.01}]
    states = [state_of(seed=seed, vocab_size=7, **ways[seed % len(ways)]) for seed in range(2000)]
    assert set(choices(sample_batch(logits, states))) == {2, 4}


def test_penalties_follow_their_formulas():
    state = state_of(prompt=(1,), presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    for token in (0, 0, 4):
        state.count(token)
    expected = [2.0 / 2 - 0.5 - 0.5, 1.0 / 2, 0.5, 0.0, -1.0 * 2 - 0.25 - 0.5, -3.0]
    assert adjust(LOGITS.unsqueeze(0), [state])[0].tolist() == pytest.approx(expected)


def test_only_rows_that_want_it_are_adjusted():
    logits = LOGITS.expand(3, -1).contiguous()
    adjusted = adjust(logits, [state_of(), state_of(logit_bias={5: 100.0}), state_of()])
    assert torch.equal(adjusted[[0, 2]], logits[[0, 2]])
    assert adjusted[1].tolist() == [*LOGITS[:5].tolist(), 97.0]


def test_bias_and_minimum_length():
    assert one(LOGITS, state_of(temperature=0.0, logit_bias={5: 100.0})) == 5
    state = state_of(temperature=0.0, min_tokens=1, stop_token_ids=(0, 1))
    assert one(LOGITS, state) == 2
    state.count(2)
    assert one(LOGITS, state) == 0


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("values", [{"temperature": 0.0}, {}, {"top_p": 0.5}, {"min_p": 0.5}, {"top_k": 3}])
def test_broken_logits_give_no_token(number, values):
    state = state_of(vocab_size=2, **values)
    assert one(torch.tensor([1.0, number]), state) is None
    assert one(torch.full((2,), -torch.inf), state) is None


def test_a_broken_row_is_reported_and_harms_nobody():
    ways = [{"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 3, "repetition_penalty": 1.3}]
    states = [state_of(seed=seed, logprobs=2, **ways[seed % 4]) for seed in range(12)]
    logits = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    draws = [Draw(row, state) for row, state in enumerate(states)]
    healthy, _ = sample_step(logits, draws, [])
    bad = range(4, 8)  # one of each way
    broken = logits.clone()
    broken[4:8] = torch.nan
    samples, _ = sample_step(broken, draws, [])
    for row, sample in enumerate(samples):
        if row in bad:
            assert (sample.token, sample.logprob) == (None, None)
        else:
            assert sample == healthy[row]


def test_the_callers_logits_are_left_alone():
    logits = LOGITS.expand(2, -1).contiguous()
    busy = state_of(logit_bias={1: 5.0}, presence_penalty=1.0, min_tokens=1, stop_token_ids=(0,), top_p=0.5)
    sample_step(
        logits, [Draw(0, busy), Draw(1, state_of(temperature=2.0, logprobs=3))], [KnownToken(0, 3, 2)]
    )
    assert torch.equal(logits, LOGITS.expand(2, -1))


@settings(deadline=None, max_examples=150)
@given(crowds())
def test_a_batch_agrees_with_plain_sampling(crowd):
    logits, states, outputs, prompts = crowd
    samples, _ = sample_step(logits, [Draw(row, state) for row, state in enumerate(states)], [])
    for row, sample in enumerate(samples):
        assert sample.token == Plain.sample(logits[row], states[row], outputs[row], prompts[row])


@settings(deadline=None, max_examples=150)
@given(crowds(), st.randoms(use_true_random=False))
def test_a_row_does_not_see_the_others(crowd, random):
    logits, states, _, _ = crowd
    count = len(states)
    known = [KnownToken(row, row % logits.shape[1], row) for row in range(count)]
    together, scores = sample_step(logits, [Draw(row, state) for row, state in enumerate(states)], known)
    for row, state in enumerate(states):
        alone, score = sample_step(
            logits[row : row + 1].clone(), [Draw(0, state)], [replace(known[row], row=0)]
        )
        assert (alone, score) == ([together[row]], [scores[row]])
    order = random.sample(range(count), random.randint(1, count))
    shuffled, shuffled_scores = sample_step(
        logits[order],
        [Draw(i, states[row]) for i, row in enumerate(order)],
        [replace(known[row], row=i) for i, row in enumerate(order)],
    )
    assert shuffled == [together[row] for row in order]
    assert shuffled_scores == [scores[row] for row in order]


def test_draws_need_not_be_in_the_order_of_rows():
    logits = torch.eye(4) * 9.0
    draws = [Draw(row, state_of(vocab_size=4, temperature=0.0)) for row in (2, 0, 3, 1)]
    samples, _ = sample_step(logits, draws, [])
    assert [sample.token for sample in samples] == [2, 0, 3, 1]


def test_log_probabilities_are_log_softmax():
    expected = LOGITS.log_softmax(0).tolist()
    logits = LOGITS.unsqueeze(0)
    best = [(0, pytest.approx(expected[0])), (1, pytest.approx(expected[1]))]
    samples, entries = sample_step(
        logits,
        [Draw(0, state_of(temperature=0.0, logprobs=2, logit_bias={3: 50.0}))],
        [KnownToken(0, 3, 2), KnownToken(0, 0, 0), KnownToken(0, 5, 20)],
    )
    assert samples[0].logprob == TokenLogprob(3, pytest.approx(expected[3]), best), "bias must not show"
    assert entries[0] == TokenLogprob(3, pytest.approx(expected[3]), best)
    assert entries[1] == TokenLogprob(0, pytest.approx(expected[0]), [])
    assert [token for token, _ in entries[2].top] == list(range(6)), "no more than there are tokens"


@pytest.mark.parametrize("vocab_size", [320, 1024, 2501])
def test_many_log_probabilities_equal_plain_ones(vocab_size):
    count = 2 * SCORED_ROWS + 3
    logits = torch.randn(count, vocab_size, generator=torch.Generator().manual_seed(2)) * 4
    known = [KnownToken(row, (7 * row) % vocab_size, row % 6) for row in range(count)]
    nothing, entries = sample_step(logits, [], known)
    assert nothing == []
    for entry, wanted in zip(entries, known, strict=True):
        plain = Plain.logprob(logits[wanted.row], wanted.token, wanted.num_top)
        assert entry.logprob == pytest.approx(plain.logprob, rel=1e-6)
        assert [token for token, _ in entry.top] == [token for token, _ in plain.top]
        assert [value for _, value in entry.top] == pytest.approx([value for _, value in plain.top], rel=1e-6)


def test_a_step_that_wants_nothing_gives_nothing():
    assert sample_step(torch.empty(0, 6), [], []) == ([], [])


def test_packing_for_the_way_to_the_host_is_exact():
    tensors = [
        torch.tensor([0, 2**31, 2**52 + 1]),
        torch.tensor([[True, False]]),
        torch.tensor([[-torch.inf, torch.nan], [1e-45, 0.1]]),
        torch.empty(2, 0, dtype=torch.int64),
    ]
    for restored in (unpack(pack(tensors), tensors), to_host(tensors)):
        for before, after in zip(tensors, restored, strict=True):
            assert before.dtype == after.dtype
            assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0))
            assert before.shape == after.shape

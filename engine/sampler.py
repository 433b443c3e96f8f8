"""Logits → tokens and log-probabilities, one row at a time so that no row sees another.

Randomness is counter-based: the uniform number behind a request's n-th token is Philox (Salmon et al., SC'11) keyed by
the request's seed with counter n. It depends on nothing else, so a seeded request draws the same tokens in any crowd
and after preemption.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from engine.messages import TokenLogprob
from engine.sampling_params import SamplingParams


@dataclass(slots=True)
class SamplingState:
    """What sampling one sequence needs to remember.

    Attributes:
        output_counts: float32 ``[vocab]``, how often each token was generated; None without penalties.
        seen: bool ``[vocab]``, tokens of the prompt and the answer; None without repetition penalty.
    """

    params: SamplingParams
    num_outputs: int = 0
    output_counts: torch.Tensor | None = None
    seen: torch.Tensor | None = None
    bias_ids: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    bias: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    stop_ids: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @classmethod
    def begin(cls, params: SamplingParams, prompt: list[int], vocab_size: int) -> "SamplingState":
        """State before the first token."""
        state = cls(params)
        if params.presence_penalty or params.frequency_penalty:
            state.output_counts = torch.zeros(vocab_size)
        if params.repetition_penalty != 1.0:
            state.seen = torch.zeros(vocab_size, dtype=torch.bool)
            state.seen[torch.tensor(prompt)] = True
        if params.logit_bias:
            state.bias_ids = torch.tensor(list(params.logit_bias))
            state.bias = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32)
        if params.min_tokens:
            state.stop_ids = torch.tensor(params.stop_token_ids, dtype=torch.int64)
        return state

    def count(self, token: int) -> None:
        """Note a generated token."""
        self.num_outputs += 1
        if self.output_counts is not None:
            self.output_counts[token] += 1
        if self.seen is not None:
            self.seen[token] = True


def sample(logits: torch.Tensor, state: SamplingState) -> int | None:
    """Choose the next token from float32 ``[vocab]`` logits; None if they are not numbers."""
    adjusted = adjust(logits, state)
    if not torch.isfinite(adjusted.max()):
        return None
    if state.params.greedy:
        return int(adjusted.argmax())
    return _draw(adjusted, state.params, uniform(state.params.seed, state.num_outputs))


def adjust(logits: torch.Tensor, state: SamplingState) -> torch.Tensor:
    """Bias, penalties (as OpenAI and CTRL, arXiv 1909.05858, define them) and the minimum length."""
    params = state.params
    masks_stops = state.num_outputs < params.min_tokens and len(state.stop_ids) > 0
    if not (len(state.bias_ids) or state.output_counts is not None or state.seen is not None or masks_stops):
        return logits
    logits = logits.clone()
    logits[state.bias_ids] += state.bias
    if state.seen is not None:
        seen = logits[state.seen]
        logits[state.seen] = torch.where(
            seen > 0, seen / params.repetition_penalty, seen * params.repetition_penalty
        )
    if state.output_counts is not None:
        logits -= params.frequency_penalty * state.output_counts
        logits -= params.presence_penalty * (state.output_counts > 0)
    if masks_stops:
        logits[state.stop_ids] = -torch.inf
    return logits


def uniform(seed: int, counter: int) -> float:
    """The number in [0, 1) that belongs to (seed, counter)."""
    raw = np.random.Philox(key=seed, counter=counter).random_raw()
    return (int(raw) >> 11) * 2.0**-53


def token_logprob(logits: torch.Tensor, token: int, num_top: int) -> TokenLogprob:
    """Log-probability of `token` under raw float32 ``[vocab]`` logits, beside the `num_top` best."""
    logprobs = logits.log_softmax(dim=0)
    values, ids = logprobs.topk(min(num_top, len(logprobs)))
    top = list(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)


def _draw(logits: torch.Tensor, params: SamplingParams, u: float) -> int:
    """Invert the cumulative distribution at `u`, after temperature, top-k, top-p and min-p, in that order."""
    probs = (logits.double() / params.temperature).softmax(dim=0)
    if not (params.top_k or params.top_p < 1.0 or params.min_p > 0.0):
        return _invert(probs, u)
    probs, ids = probs.sort(descending=True, stable=True)
    if params.top_k:
        probs = probs[: params.top_k]
    if params.top_p < 1.0:
        before = probs.cumsum(0) - probs  # mass ahead of each token; the first is always kept
        probs = probs[before < params.top_p * probs.sum()]
    if params.min_p > 0.0:
        probs = probs[probs >= params.min_p * probs[0]]
    return int(ids[_invert(probs, u)])


def _invert(probs: torch.Tensor, u: float) -> int:
    cumulative = probs.cumsum(0)
    target = u * cumulative[-1]
    index = int(torch.searchsorted(cumulative, target, right=True))
    return min(index, len(probs) - 1)

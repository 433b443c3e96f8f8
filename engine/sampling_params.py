"""What a request asks of the sampler, and the one function that checks it.

Torch-free: the API process builds these, the engine process uses them. `check_sampling_params` is called by the
engine core, below every front end, so no front end can forget a bound.
"""

import math

import msgspec

from engine.errors import ContextLengthError, InvalidRequestError

MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 256
MAX_GRAMMAR_CHARS = 1 << 20  # a front end's own bound is on what clients send, which is smaller
MAX_TEMPERATURE = 100.0
MIN_TEMPERATURE = 1e-5  # below this, dividing logits by it overflows float32; it means greedy
SEED_BITS = 64


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Sampling parameters of one sequence. Defaults mean "off".

    Attributes:
        max_tokens: most tokens to generate; 0 computes the prompt only (for prompt logprobs).
        min_tokens: end-of-sequence and stop tokens are masked until so many tokens exist.
        temperature: 0 (or below `MIN_TEMPERATURE`) is greedy.
        top_k: 0 is off.
        seed: 64-bit key of the counter-based generator; the server draws one when the client gives none.
        stop_token_ids: tokens that end the sequence; the server puts the model's eos ids here unless
            `ignore_eos` was asked for.
        logprobs: number of top alternatives wanted per generated token; None is no logprobs, 0 only the sampled one.
        prompt_logprobs: same for the prompt's tokens; switches prefix reuse and the tail start off.
        loop_logprobs: whether to tell what each loop would have given the sampled token.
        grammar: what the answer must conform to, as llguidance's text (`engine.grammar`); None is anything.
    """

    max_tokens: int
    seed: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    loop_logprobs: bool = False
    grammar: str | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE


def check_sampling_params(params: SamplingParams, vocab_size: int) -> None:
    """Refuse parameters that the sampler can't honour.

    Args:
        params: what the request asked for.
        vocab_size: width of the embedding, which is what token ids index (not the tokenizer's length).

    Raises:
        InvalidRequestError: names the field and its allowed range.
    """
    _check_range("max_tokens", params.max_tokens, 0, 2**31)
    _check_range("min_tokens", params.min_tokens, 0, params.max_tokens)
    _check_range("temperature", params.temperature, 0.0, MAX_TEMPERATURE)
    _check_range("top_k", params.top_k, 0, 2**31)
    _check_range("min_p", params.min_p, 0.0, 1.0)
    _check_range("presence_penalty", params.presence_penalty, -2.0, 2.0)
    _check_range("frequency_penalty", params.frequency_penalty, -2.0, 2.0)
    _check_range("seed", params.seed, 0, 2**SEED_BITS - 1)
    if not (math.isfinite(params.top_p) and 0.0 < params.top_p <= 1.0):
        raise InvalidRequestError(f"top_p must be above 0 and at most 1, got {params.top_p}.", param="top_p")
    if not (math.isfinite(params.repetition_penalty) and 0.0 < params.repetition_penalty <= 100.0):
        raise InvalidRequestError(
            f"repetition_penalty must be above 0 and at most 100, got {params.repetition_penalty}.",
            param="repetition_penalty",
        )
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(params, name)
        if count is not None:
            _check_range(name, count, 0, MAX_LOGPROBS)
    _check_ids("stop_token_ids", params.stop_token_ids, vocab_size, MAX_STOP_TOKEN_IDS)
    _check_ids("logit_bias", tuple(params.logit_bias), vocab_size, MAX_LOGIT_BIAS)
    for bias in params.logit_bias.values():
        _check_range("logit_bias", bias, -100.0, 100.0)
    if params.grammar is not None and len(params.grammar) > MAX_GRAMMAR_CHARS:
        raise InvalidRequestError(
            f"The grammar is longer than {MAX_GRAMMAR_CHARS} characters.", param="grammar"
        )


def check_num_loops(num_loops: object, most: int) -> None:
    """Refuse a loop budget that the model can't honour; None is all its loops.

    Args:
        num_loops: whatever the client sent.
        most: the model's R.

    Raises:
        InvalidRequestError: it isn't a whole number from 1 to R.
    """
    if num_loops is not None and not (type(num_loops) is int and 1 <= num_loops <= most):
        raise InvalidRequestError(
            f"loops must be a whole number from 1 to {most}, the number of loops of this model.",
            param="loops",
        )


def check_token_ids(name: str, ids: list[int], vocab_size: int) -> None:
    """Refuse token ids that don't index the embedding.

    Raises:
        InvalidRequestError: if there are none or one lies outside ``[0, vocab_size)``.
    """
    if not ids:
        raise InvalidRequestError(f"{name} must contain at least one token.", param=name)
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise InvalidRequestError(
            f"{name} contains token id {bad}, but this model's ids go from 0 to {vocab_size - 1}.", param=name
        )


def check_context_length(prompt_tokens: int, max_tokens: int, max_model_len: int, param: str) -> None:
    """Refuse a request longer than a sequence may get.

    The wording is what LiteLLM, LangChain, OpenHands and Aider look for; a test keeps it frozen.

    Raises:
        ContextLengthError: with code ``context_length_exceeded``.
    """
    if prompt_tokens + max_tokens > max_model_len:
        requested = f" and requested {max_tokens} completion tokens" if max_tokens else ""
        raise ContextLengthError(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
            f"{prompt_tokens} tokens{requested}, so the prompt is too long. Please reduce the length of the {param}.",
            param=param,
            prompt_tokens=prompt_tokens,
            max_model_len=max_model_len,
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN too
        raise InvalidRequestError(f"{name} must be between {low} and {high}, got {value}.", param=name)


def _check_ids(name: str, ids: tuple[int, ...], vocab_size: int, most: int) -> None:
    if len(ids) > most:
        raise InvalidRequestError(f"{name} may have at most {most} entries, got {len(ids)}.", param=name)
    if ids:
        check_token_ids(name, list(ids), vocab_size)

"""Request fields → the engine's sampling parameters.

A field the client left out takes the model's own default (generation_config.json), then OpenAI's.
"""

import secrets

from engine.config import GenerationDefaults
from engine.sampling_params import SEED_BITS, SamplingParams
from server.openai.protocol import GenerationFields


def sampling_params(
    fields: GenerationFields,
    defaults: GenerationDefaults,
    eos_token_ids: tuple[int, ...],
    *,
    max_tokens: int,
    choice: int,
    seed: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    loop_logprobs: bool = False,
    grammar: str | None,
) -> SamplingParams:
    """Parameters of one choice.

    Args:
        eos_token_ids: the model's end tokens, which stop the answer unless `ignore_eos`.
        choice: index among the request's `n`; each draws with its own seed.
        seed: from `request_seed`.
        grammar: from `server.openai.constraints`.
    """
    stops = dict.fromkeys([*(() if fields.ignore_eos else eos_token_ids), *(fields.stop_token_ids or ())])
    return SamplingParams(
        max_tokens=max_tokens,
        seed=(seed + choice) % 2**SEED_BITS,
        min_tokens=fields.min_tokens or 0,
        temperature=_first(fields.temperature, defaults.temperature, 1.0),
        top_p=_first(fields.top_p, defaults.top_p, 1.0),
        top_k=max(0, int(_first(fields.top_k, defaults.top_k, 0))),
        min_p=_first(fields.min_p, defaults.min_p, 0.0),
        repetition_penalty=_first(fields.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=fields.logit_bias,
        stop_token_ids=tuple(stops),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        loop_logprobs=loop_logprobs,
        grammar=grammar,
    )


def request_seed(fields: GenerationFields) -> int:
    """The client's seed as an unsigned number, or a fresh one."""
    return secrets.randbits(SEED_BITS) if fields.seed is None else fields.seed % 2**SEED_BITS


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)

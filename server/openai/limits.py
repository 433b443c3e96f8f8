"""How much one request may ask for. What OpenAI's API fixes for good (20 logprobs, 16 labels) is not here.

The defaults are what real clients need: Continue sends up to 14 stop strings where OpenAI takes 4, pass@k evaluations
ask for a hundred choices, lm-eval sends lists of prompts, Codex and Claude Code dozens of tools. Checks get the limits
of their server through pydantic's validation context; without one, the defaults.
"""

from dataclasses import dataclass, fields

from pydantic import ValidationInfo


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """One field for each setting of the same name, with its default."""

    max_choices: int = 128
    max_prompts: int = 64
    max_request_sequences: int = 256
    max_stops: int = 16
    max_stop_chars: int = 256
    max_logit_bias: int = 1024
    max_nesting: int = 64
    max_schema_size: int = 64 << 10
    max_tools: int = 128
    max_messages: int = 4096


LIMIT_NAMES = tuple(field.name for field in fields(RequestLimits))
DEFAULT_LIMITS = RequestLimits()


def limits_of(info: ValidationInfo) -> RequestLimits:
    """The limits that a validation runs under."""
    return info.context if isinstance(info.context, RequestLimits) else DEFAULT_LIMITS

"""Fields this server knows of but does not have: refused where ignoring them would give a wrong answer.

A request for constrained output that is answered without the constraint looks like success, so everything that looks
like one is refused. Fields that only label or route a request are accepted. The rest is ignored with a warning, as
refusing them breaks clients that send more than they need.
"""

import logging
import re
from collections.abc import Collection, Mapping

from engine.errors import InvalidRequestError
from server.error_catalogue import UNSUPPORTED_PARAMETER, UNSUPPORTED_PARAMETER_HINT
from server.openai.errors import ApiError

logger = logging.getLogger(__name__)

MAX_LABEL_CHARS = 512
MAX_LABEL_ENTRIES = 16
MAX_LABEL_LEVELS = 16
MAX_NAMES_LOGGED = 8

LABELS = frozenset(
    [
        *("user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention"),
        *("safety_identifier", "verbosity", "reasoning_effort", "parallel_tool_calls", "request_id"),
        "session_id",
    ]
)
# Hints that may speed an answer up but never change it; Continue sends whole files as `prediction`.
HINTS = frozenset(["prediction"])

_CONSTRAINT = re.compile(
    r"guided_.*|structured_.*|response_(format|schema)|regex|ebnf|grammar|gbnf|lark|json_(schema|object)"
    r"|choices?|structural_tag|stop_regex|bad_words|allowed_token_ids|logits_processors?"
)
_CONSTRAIN_BY = "Use structured_outputs or response_format."
_TOOLS = frozenset(["tools", "functions", "tool_choice", "function_call"])
_REFUSED = frozenset(
    [
        *("chat_template", "chat_template_kwargs", "continue_final_message", "documents"),
        *("prompt_embeds", "prompt_logprobs", "use_beam_search", "length_penalty"),
        *("modalities", "audio", "web_search_options", "input_audio", "file", "mm_processor_kwargs"),
        *("lora", "lora_path", "repetition_detection"),
    ]
)
# Refused with a word on what to do; a request model that has the field never comes here.
_INSTEAD = {
    "num_loops": "Use loops, the number of loops to run.",
    "loop_budget": "Use loops, the number of loops to run.",
    "loops": "It belongs to requests that generate text.",
    "loop_logprobs": "It is for /v1/completions.",
}
# What a client may say explicitly without asking for anything.
_NOTHING: tuple[object, ...] = (None, False, "", [], {})
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "response_format": ({"type": "text"},),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "modalities": (["text"],),
    "length_penalty": (1, 1.0),
}


def check_unknown(body: Mapping[str, object], known: Collection[str]) -> None:
    """Look at the fields of a request body that its model does not have.

    Raises:
        ApiError: a field asks for something that is not implemented and can't be ignored.
        InvalidRequestError: a label is too long.
    """
    ignored = []
    # A client that forbids tool calls may still send the tools.
    no_tools = "none" in (body.get("tool_choice"), body.get("function_call"))
    for name in body.keys() - known:
        value = body[name]
        if value in _NOTHING or value in _NEUTRAL.get(name, ()) or (name in _TOOLS and no_tools):
            continue
        if name in _INSTEAD:
            raise ApiError.of(UNSUPPORTED_PARAMETER_HINT, param=name, field=name, hint=_INSTEAD[name])
        if _CONSTRAINT.fullmatch(name):
            raise ApiError.of(UNSUPPORTED_PARAMETER_HINT, param=name, field=name, hint=_CONSTRAIN_BY)
        if name in _TOOLS or name in _REFUSED:
            raise ApiError.of(UNSUPPORTED_PARAMETER, param=name, field=name)
        if name in HINTS:
            continue
        if name not in LABELS:
            ignored.append(name)
        elif not _is_small(value):
            raise InvalidRequestError(f"{name} is too long.", param=name)
    if ignored:
        shown = [ascii(name[:64]) for name in sorted(ignored)[:MAX_NAMES_LOGGED]]
        logger.warning("ignored %d unknown request fields: %s", len(ignored), ", ".join(shown))


def _is_small(value: object, levels: int = MAX_LABEL_LEVELS) -> bool:
    parts: tuple[object, ...]
    match value:
        case str():
            return len(value) <= MAX_LABEL_CHARS
        case dict():
            parts = (*value, *value.values())
        case list():
            parts = tuple(value)
        case _:
            return True
    return (
        levels > 0 and len(value) <= MAX_LABEL_ENTRIES and all(_is_small(part, levels - 1) for part in parts)
    )

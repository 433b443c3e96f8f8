"""Hand-written checks of request fields that can be large or have several shapes.

They stop at the first problem and look at a list in C-speed passes: a validator that collects every error of a hostile
body takes seconds and answers with megabytes. Each raises `ValueError`, which pydantic makes one error of the field.
"""

import re

from pydantic import ValidationInfo

from server.openai.limits import limits_of

MAX_METADATA = 16
MAX_METADATA_CHARS = 512

_TOKEN_ID = re.compile(r"[0-9]{1,10}", re.ASCII)


def check_stop(value: object, info: ValidationInfo) -> list[str]:
    """Stop strings; a single one may come without a list, null is none."""
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not set(map(type, stops)) <= {str}:
        raise ValueError("must be a string or a list of strings")
    limits = limits_of(info)
    if len(stops) > limits.max_stops:
        raise ValueError(f"may have at most {limits.max_stops} strings")
    if not all(0 < len(stop) <= limits.max_stop_chars for stop in stops):
        raise ValueError(f"must hold strings of 1 to {limits.max_stop_chars} characters")
    return stops


def check_logit_bias(value: object, info: ValidationInfo) -> dict[int, float]:
    """Bias by token id, which JSON can only write as text; null is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids to numbers")
    most = limits_of(info).max_logit_bias
    if len(value) > most:
        raise ValueError(f"may have at most {most} entries")
    if not all(map(_TOKEN_ID.fullmatch, value)):
        raise ValueError("must have token ids as keys")
    if not set(map(type, value.values())) <= {int, float}:
        raise ValueError("must have numbers as values")
    return {int(key): float(bias) for key, bias in value.items()}


def check_choices(value: int | None, info: ValidationInfo) -> int | None:
    """How many choices per prompt."""
    most = limits_of(info).max_choices
    if value is not None and not 1 <= value <= most:
        raise ValueError(f"must be between 1 and {most}")
    return value


def check_messages(value: object, info: ValidationInfo) -> object:
    """Messages are not looked at if there are too many."""
    most = limits_of(info).max_messages
    if isinstance(value, list) and len(value) > most:
        raise ValueError(f"may have at most {most} messages")
    return value


def check_content(value: object) -> str:
    """The text of a message; text parts are joined as they are, other kinds of parts are refused."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of text parts")
    return "".join([_text_of(part) for part in value])


def check_metadata(value: object) -> dict[str, str]:
    """Labels by name; null is none."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_METADATA:
        raise ValueError(f"must be an object of at most {MAX_METADATA} strings")
    if not all(isinstance(text, str) for text in value.values()):
        raise ValueError("must have strings as values")
    if any(len(text) > MAX_METADATA_CHARS for text in (*value, *value.values())):
        raise ValueError(f"must have names and values of at most {MAX_METADATA_CHARS} characters")
    return value


def check_absent(value: object) -> None:
    """For fields of messages that may only say nothing."""
    if value not in (None, [], {}):
        raise ValueError("is not supported by this server")


def _text_of(part: object) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise ValueError("may only have parts of type 'text'; this model reads text only")
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError("has a text part whose 'text' is not a string")
    return text

"""Reads and validates JSON bodies: strict JSON, small errors, nothing ignored that would change the answer."""

import logging
from typing import TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError

from server.openai.errors import ApiError

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)

MAX_SHOWN = 200
"""Characters of a client's input, or of a validator's text, that an error may repeat."""

ACCEPTED_UNUSED = frozenset(
    [
        "user",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "safety_identifier",
        "verbosity",
        "reasoning_effort",
        "modalities",
        "parallel_tool_calls",
        "prompt_cache_retention",
        "spaces_between_special_tokens",
        "name",
        "tool_calls",
        "tool_call_id",
    ]
)
CONSTRAINTS = frozenset(
    [
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "json_schema",
        "regex",
        "ebnf",
        "grammar",
        "choice",
        "structural_tag",
        "bad_words",
        "allowed_token_ids",
        "prediction",
        "audio",
        "web_search_options",
        "truncate_prompt_tokens",
        "use_beam_search",
        "prompt_embeds",
        "loops",
    ]
)
"""Fields that change what may be generated; ignoring one would silently give a wrong answer."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none"),
    "function_call": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "use_beam_search": (None, False),
}


async def read_body(request: Request, model: type[Model]) -> Model:
    """The request's body as `model`.

    Raises:
        ApiError: 415 for another content type or encoding, 400 for anything else.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(415, "Send the body as Content-Type: application/json.", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "Send the body uncompressed.", code="unsupported_media_type")
    try:
        values = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"The body is not valid JSON: {str(error)[:MAX_SHOWN]}.", code="invalid_json"
        ) from None
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    try:
        parsed = model.model_validate(values)
    except ValidationError as error:
        raise _first_problem(error) from None
    _check_extra(parsed.model_extra or {})
    return parsed


def _first_problem(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:MAX_SHOWN]
    return ApiError(400, f"{where}: {problem['msg'][:MAX_SHOWN]}.", param=where)


def _check_extra(extra: dict[str, object]) -> None:
    for name, value in extra.items():
        if name in CONSTRAINTS or name.startswith("guided_"):
            if value not in NEUTRAL.get(name, (None,)):
                raise ApiError(
                    400, f"{name} is not supported by this server.", param=name, code="unsupported_parameter"
                )
        elif name not in ACCEPTED_UNUSED:
            logger.warning("ignored unknown request field %r", name[:MAX_SHOWN])

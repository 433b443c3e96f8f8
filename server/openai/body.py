"""Reads and validates JSON bodies: strict JSON, small errors, nothing ignored that would change the answer."""

import re
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError

from server.openai.errors import ApiError
from server.openai.loops import LOOPS, add_header_loops
from server.openai.unsupported import check_unknown

Model = TypeVar("Model", bound=BaseModel)
_SUBJECT = re.compile(r"^(Value error, |(Input|List|String) (?=should ))")

MAX_SHOWN = 200
"""Characters of a client's input, or of a validator's text, that an error may repeat."""

MAX_FIELDS = 256


async def read_body(request: Request, model: type[Model]) -> Model:
    """The request's body as `model`.

    Raises:
        ApiError, InvalidRequestError: 415 for another content type or encoding, 400 for anything else.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(415, "Send the body as Content-Type: application/json.", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "Send the body uncompressed.", code="unsupported_media_type")
    try:
        values = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"The body is not valid JSON: {str(error)[:MAX_SHOWN]}.", code="invalid_json"
        ) from None
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    if len(values) > MAX_FIELDS:
        raise ApiError(400, f"The body may have at most {MAX_FIELDS} fields.")
    if LOOPS in model.model_fields:
        add_header_loops(values, request.headers)
    return validate(values, model)


def validate(values: dict[str, Any], model: type[Model]) -> Model:
    """Request fields as `model`, whether a client sent them or another API was translated into them.

    Raises:
        ApiError, InvalidRequestError: 400.
    """
    check_unknown(values, model.model_fields)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _first_problem(error) from None


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describes a route's body in the OpenAPI document, as FastAPI doesn't see what `read_body` reads."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inlined(schema, definitions)}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with references replaced by what they refer to; ours are not recursive."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _first_problem(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:MAX_SHOWN]
    if problem["type"] == "missing":
        return ApiError(400, f"{where} is required.", param=where)
    text = _SUBJECT.sub("", problem["msg"])[:MAX_SHOWN]
    return ApiError(400, f"{where} {text}.", param=where)

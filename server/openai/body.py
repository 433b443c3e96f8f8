"""Reads and validates JSON bodies: strict JSON, small errors, nothing ignored that would change the answer."""

import re
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError

from server.error_catalogue import (
    INVALID_JSON,
    MISSING_FIELD,
    NOT_AN_OBJECT,
    TOO_MANY_FIELDS,
    TOO_MANY_VALUES,
    TOO_NESTED,
    UNSUPPORTED_ENCODING,
    UNSUPPORTED_MEDIA_TYPE,
)
from server.openai.errors import ApiError
from server.openai.limits import RequestLimits
from server.openai.loops import LOOPS, add_header_loops
from server.openai.nesting import deeper_than, holds_more_containers, may_be_deeper_than
from server.openai.unsupported import check_unknown
from server.state import get_state

Model = TypeVar("Model", bound=BaseModel)
_SUBJECT = re.compile(r"^(Value error, |(Input|List|String) (?=should ))")

MAX_SHOWN = 200
"""Characters of a client's input, or of a validator's text, that an error may repeat."""

MAX_FIELDS = 256
MAX_CONTAINERS = 1 << 17
"""Objects and lists in a body; the longest conversations have a tenth of it."""


def check_is_json(request: Request) -> None:
    """Refuse what a page of another site can send without the browser asking first.

    Raises:
        ApiError: 415, the content type is another.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError.of(UNSUPPORTED_MEDIA_TYPE)


async def read_body(request: Request, model: type[Model]) -> Model:
    """The request's body as `model`.

    Raises:
        ApiError, InvalidRequestError: 415 for another content type or encoding, 400 for anything else.
    """
    check_is_json(request)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError.of(UNSUPPORTED_ENCODING)
    body = await request.body()
    if holds_more_containers(body, MAX_CONTAINERS):
        raise ApiError.of(TOO_MANY_VALUES, limit=MAX_CONTAINERS)
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError.of(INVALID_JSON, problem=str(error)[:MAX_SHOWN]) from None
    if not isinstance(values, dict):
        raise ApiError.of(NOT_AN_OBJECT)
    if len(values) > MAX_FIELDS:
        raise ApiError.of(TOO_MANY_FIELDS, limit=MAX_FIELDS)
    limits = get_state(request).limits
    if may_be_deeper_than(body, limits.max_nesting):
        _check_nesting(values, limits.max_nesting)
    if LOOPS in model.model_fields:
        add_header_loops(values, request.headers)
    return validate(values, model, limits)


def validate(values: dict[str, Any], model: type[Model], limits: RequestLimits) -> Model:
    """Request fields as `model`, whether a client sent them or another API was translated into them.

    Raises:
        ApiError, InvalidRequestError: 400.
    """
    check_unknown(values, model.model_fields)
    try:
        return model.model_validate(values, context=limits)
    except ValidationError as error:
        raise _first_problem(error) from None


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describes a route's body in the OpenAPI document, as FastAPI doesn't see what `read_body` reads."""
    content = {"application/json": {"schema": inlined_schema(model.model_json_schema())}}
    return {"requestBody": {"required": True, "content": content}}


def inlined_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without references: it can be put anywhere in a document."""
    rest = dict(schema)
    definitions = rest.pop("$defs", {})
    out: dict[str, Any] = _inlined(rest, definitions)
    return out


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with references replaced by what they refer to; ours are not recursive."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def _check_nesting(values: dict[str, Any], most: int) -> None:
    """Refuse what would take recursion to its limit later."""
    if deeper_than(values, most):
        field = next(name for name, value in values.items() if deeper_than(value, most - 1))[:MAX_SHOWN]
        raise ApiError.of(TOO_NESTED, param=field, field=field, limit=most)


def _first_problem(error: ValidationError) -> ApiError:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:MAX_SHOWN]
    if problem["type"] == "missing":
        return ApiError.of(MISSING_FIELD, param=where, field=where)
    text = _SUBJECT.sub("", problem["msg"])[:MAX_SHOWN]
    return ApiError(400, f"{where} {text}.", param=where)

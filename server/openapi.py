"""``GET /openapi.json``: what FastAPI knows of the routes, corrected to what the server really answers.

FastAPI sees neither the bodies that `read_body` reads nor what middleware and error handlers answer, and it promises a
422 that never comes.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from server.anthropic.errors import is_messages, status_of
from server.auth import OPEN_PATHS
from server.error_catalogue import CATALOGUE
from server.openai.answer_schemas import ANSWERS, AnthropicErrorAnswer, ErrorAnswer
from server.openai.body import inlined_schema

ADDRESS = "/openapi.json"

EVERYWHERE = (400, 413, 500)
WITH_A_BODY = (400, 404, 415, 429, 503)
NOT_FOUND = (404,)
OF_WHAT_IS_ONLY_BEGUN = (409, 415, 503)
OF_THE_ENGINE = ("/cache",)
ERROR, ANTHROPIC_ERROR = "ErrorAnswer", "AnthropicErrorAnswer"


def install_openapi(app: FastAPI, *, with_keys: bool) -> None:
    """Make `app` describe itself; the document is made when it is first asked for.

    Args:
        with_keys: requests need an API key.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, with_keys)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, with_keys: bool) -> dict[str, Any]:
    out = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = {
        ERROR: inlined_schema(ErrorAnswer.model_json_schema()),
        ANTHROPIC_ERROR: inlined_schema(AnthropicErrorAnswer.model_json_schema()),
    }
    out["components"] = {"schemas": schemas}
    if with_keys:
        out["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        out["security"] = [{"key": []}]
    for path, operations in out["paths"].items():
        for operation in operations.values():
            operation["responses"] = _responses(path, operation, with_keys)
            if with_keys and path in OPEN_PATHS:
                operation["security"] = []
    return out


def _responses(path: str, operation: dict[str, Any], with_keys: bool) -> dict[str, Any]:
    statuses = {*EVERYWHERE}
    if "requestBody" in operation:
        statuses |= {*WITH_A_BODY}
    elif "parameters" in operation:
        statuses |= {*NOT_FOUND}
    if with_keys and path not in OPEN_PATHS:
        statuses.add(401)
    if path in OF_THE_ENGINE:
        statuses.add(503)
    success = "202" if "202" in operation["responses"] else "200"
    if success == "202":
        statuses |= {*OF_WHAT_IS_ONLY_BEGUN}
    out = {success: _success(path, operation)}
    if path == "/ready":
        out["503"] = {**out["200"], "description": "Not ready."}
    if is_messages(path):
        return out | {
            str(status_of(status)): _failure(status, ANTHROPIC_ERROR) for status in sorted(statuses)
        }
    return out | {str(status): _failure(status, ERROR) for status in sorted(statuses)}


def _success(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    if path == "/metrics":
        return {"description": "Success.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    answer = ANSWERS.get(path)
    schema = {"type": "object"} if answer is None else inlined_schema(answer.model_json_schema())
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if _can_stream(operation):
        # Each event's data is a JSON object, which OpenAPI has no words for.
        content["text/event-stream"] = {}
    return {"description": "Success.", "content": content}


def _can_stream(operation: dict[str, Any]) -> bool:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return "stream" in body.get("schema", {}).get("properties", {})


def _failure(status: int, body: str) -> dict[str, Any]:
    kinds = [kind for kind in CATALOGUE.values() if kind.status == status]
    codes = sorted({kind.code for kind in kinds if kind.code is not None})
    description = f"Codes: {', '.join(codes)}." if codes else "See docs/errors.md."
    schema = {"$ref": f"#/components/schemas/{body}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}

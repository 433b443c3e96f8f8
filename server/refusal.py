"""Errors answered by middleware, before any route is reached: OpenAI's shape, never more than a few lines."""

from collections.abc import Mapping

from starlette.responses import JSONResponse


def refusal(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A response (an ASGI application too) with OpenAI's error object."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)

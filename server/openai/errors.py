"""Every failure as OpenAI's error object, never FastAPI's 422, never a traceback or a path.

Client libraries decide by `code`, `type`, the status and some words of the message whether to retry, to shorten the
prompt or to give up, so these are part of the interface.
"""

import logging
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.errors import EngineDeadError, InvalidRequestError, LoopserveError
from engine.messages import RequestOutput
from server.error_catalogue import (
    ENGINE_DEAD,
    ENGINE_ERROR,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    INVALID_VALUE,
    LOADING,
    MALFORMED_ADDRESS,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    REQUEST_TIMEOUT,
    SERVER_ERROR,
    ErrorKind,
)
from server.errors import ConflictError, RequestTimeoutError, UnavailableError

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 1000
CLIENT_CLOSED_REQUEST = 499
DO_NOT_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients repeat what gets a 5xx, unless told not to by this."""


class ErrorObject(msgspec.Struct, frozen=True):
    """OpenAI's error object; clients expect all four keys."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """Body of every error response, and the last event of a stream that failed."""

    error: ErrorObject


class ApiError(LoopserveError):
    """A failure with everything the client is told about it.

    Attributes:
        status: HTTP status, for failures before the first byte of the response.
        kind: `type` in the error object.
        param: the request field at fault, or None.
        code: machine-readable code, or None.
        headers: additional response headers, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers or {}

    @classmethod
    def of(
        cls,
        kind: ErrorKind,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        **values: object,
    ) -> "ApiError":
        """An error of the catalogue; `values` fill the places of its text."""
        return cls(
            kind.status, kind.message(**values), kind=kind.type, param=param, code=kind.code, headers=headers
        )

    @classmethod
    def worded(
        cls,
        kind: ErrorKind,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> "ApiError":
        """An error of the catalogue whose text was made where it happened."""
        return cls(kind.status, message, kind=kind.type, param=param, code=kind.code, headers=headers)

    def body(self) -> ErrorBody:
        """What the client reads."""
        message = self.message[:MAX_MESSAGE_CHARS]
        return ErrorBody(ErrorObject(message, self.kind, self.param, self.code))


class ClientDisconnectedError(LoopserveError):
    """The client went away while its request was worked on; nobody reads the answer."""


def to_api_error(error: BaseException) -> ApiError:
    """What the client is told about any failure; only errors raised on purpose keep their text."""
    match error:
        case ApiError():
            return error
        case InvalidRequestError():
            return ApiError(INVALID_VALUE.status, str(error), param=error.param, code=error.code)
        case EngineDeadError():
            return ApiError.worded(ENGINE_DEAD, str(error))
        case UnavailableError():
            retry = {"Retry-After": str(error.retry_after)}
            return ApiError(LOADING.status, str(error), kind=LOADING.type, code=error.code, headers=retry)
        case ConflictError():
            return ApiError.worded(error.kind, str(error), headers=DO_NOT_RETRY)
        case RequestTimeoutError():
            return ApiError.worded(REQUEST_TIMEOUT, str(error), headers=DO_NOT_RETRY)
        case HTTPException():
            return _routing_error(error)
        case RequestValidationError():
            return ApiError.of(MALFORMED_ADDRESS)
        case _:
            return ApiError.of(INTERNAL_ERROR)


def engine_error(output: RequestOutput) -> ApiError:
    """What the client is told when the engine ends its request with an error."""
    kind = INVALID_VALUE if output.invalid else ENGINE_ERROR
    return ApiError.worded(kind, output.error or ENGINE_ERROR.message())


def log_if_bug(error: BaseException) -> None:
    """Keep the traceback of what the client only sees as an internal error."""
    if to_api_error(error).code == INTERNAL_ERROR.code:
        logger.error("request failed", exc_info=error)


def error_response(error: ApiError) -> Response:
    """The error as an HTTP response."""
    return Response(
        msgspec.json.encode(error.body()),
        status_code=error.status,
        media_type="application/json",
        headers=error.headers,
    )


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure of every route, and of routing itself, answer in OpenAI's shape."""
    for kind in (LoopserveError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(ClientDisconnectedError, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_bug)


async def _handle(request: Request, error: Exception) -> Response:
    log_if_bug(error)
    return error_response(to_api_error(error))


async def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # for logs and metrics; it reaches nobody


async def _handle_bug(request: Request, error: Exception) -> Response:
    """The server's own bug; Starlette logs the traceback after this.

    Starlette answers these outside all middleware, so the id that finds the traceback has to be put on here.
    """
    response = error_response(to_api_error(error))
    request_id: Any = getattr(request.state, "request_id", None)
    if request_id is not None:
        response.headers["x-request-id"] = str(request_id)
    return response


def _routing_error(error: HTTPException) -> ApiError:
    """404 and 405 of the router. Its texts are fixed, so nothing of the request is echoed."""
    headers = dict(error.headers or {})
    for kind in (NOT_FOUND, METHOD_NOT_ALLOWED):
        if error.status_code == kind.status:
            return ApiError.of(kind, headers=headers)
    blame = INVALID_REQUEST if error.status_code < 500 else SERVER_ERROR
    return ApiError(error.status_code, "The request could not be handled.", kind=blame, headers=headers)

"""Errors under ``/v1/messages`` in Anthropic's shape: the one place that knows how they map.

Whatever refuses a request (authentication, the body's limit, routing, a handler) does so in OpenAI's shape, without
knowing the path. `AnthropicErrorsMiddleware` stands around all of it and rewrites such answers.
"""

import json
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import ContextLengthError
from server.openai.errors import ApiError

PREFIX = "/v1/messages"
OVERLOADED = 529

_STATUS = {503: OVERLOADED}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
_KEPT_HEADERS = frozenset([b"retry-after", b"allow", b"www-authenticate", b"connection", b"x-should-retry"])
"""What an error's headers say beside its body."""


def status_of(status: int) -> int:
    """Anthropic's status for one of OpenAI's API."""
    return _STATUS.get(status, status)


def error_body(error: ApiError) -> dict[str, Any]:
    """The object that a client reads, as a response or as the last event of a stream."""
    return _body(status_of(error.status), error.body().error.message)


def overflow(error: ContextLengthError) -> ApiError:
    """Context overflow in the words that Claude Code and other clients look for; an answer needs one token at least."""
    message = f"prompt is too long: {error.prompt_tokens} tokens > {error.max_model_len - 1} maximum"
    return ApiError(400, message, param=error.param, code=error.code)


class AnthropicErrorsMiddleware:
    """Rewrites error responses under ``/v1/messages``, and puts the request's id where Anthropic's clients look."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or not is_messages(scope["path"]):
            await self._app(scope, receive, send)
            return
        sender = _Sender(scope, receive, send)
        try:
            await self._app(scope, receive, sender)
        except Exception:
            # The server's own bug. What would be written outside of all middleware has OpenAI's shape.
            await sender.refuse(500, "Internal server error.", [])
            raise


class _Sender:
    """Passes a good response on, and holds an error until its body is there."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._error: Message | None = None
        self._parts: list[bytes] = []
        self._started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                self._error = message
                return
            self._started = True
            message["headers"] = [*message.get("headers", []), *self._id_header()]
        if self._error is None:
            await self._send(message)
            return
        self._parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            await self._rewrite(self._error, b"".join(self._parts))

    async def refuse(self, status: int, text: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer with an error, unless an answer has begun."""
        if self._started:
            return
        self._started = True
        response = JSONResponse(_body(status, text, self._request_id()), status_code=status)
        response.raw_headers += [*headers, *self._id_header()]
        await response(self._scope, self._receive, self._send)

    async def _rewrite(self, start: Message, body: bytes) -> None:
        try:
            text = json.loads(body)["error"]["message"]
        except (ValueError, LookupError, TypeError):
            text = "The request could not be handled."
        kept = [(name, value) for name, value in start.get("headers", []) if name.lower() in _KEPT_HEADERS]
        status: int = start["status"]
        await self.refuse(status_of(status), text, kept)

    def _request_id(self) -> str | None:
        request_id: str | None = self._scope.get("state", {}).get("request_id")
        return request_id

    def _id_header(self) -> list[tuple[bytes, bytes]]:
        request_id = self._request_id()
        return [] if request_id is None else [(b"request-id", request_id.encode())]


def is_messages(path: str) -> bool:
    """Whether errors of this path have Anthropic's shape."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def _body(status: int, message: str, request_id: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
    return body if request_id is None else {**body, "request_id": request_id}

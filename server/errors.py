"""Errors of the API process itself; those shared with the engine are in `engine.errors`."""

from engine.errors import LoopserveError
from server.error_catalogue import ErrorKind


class UnavailableError(LoopserveError):
    """The server can't take this request now; the same request may succeed later (HTTP 503).

    Attributes:
        retry_after: seconds for the `Retry-After` header.
        code: `code` in the error object.
        reason: label of the counter of refused requests; None where a request was not refused but given up.
    """

    def __init__(
        self, message: str, *, retry_after: int, code: str = "unavailable", reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.code = code
        self.reason = reason


class RequestTimeoutError(LoopserveError):
    """A request ran longer than `--request-timeout` allows (HTTP 504)."""


class ConflictError(LoopserveError):
    """What is asked for doesn't go with what the server is or does now (HTTP 409).

    Attributes:
        kind: which case of the catalogue.
    """

    def __init__(self, kind: ErrorKind, **values: object) -> None:
        super().__init__(kind.message(**values))
        self.kind = kind


class SettingsError(LoopserveError):
    """A command-line option, environment variable or key file is wrong; the text is one line."""


class LibraryPanicError(Exception):
    """A panic in a Rust library, whose own class is no `Exception`. Our bug or theirs, so no text for the client."""

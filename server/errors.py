"""Errors of the API process itself; those shared with the engine are in `engine.errors`."""

from engine.errors import LoopserveError


class UnavailableError(LoopserveError):
    """The server can't take this request now; the same request may succeed later (HTTP 503).

    Attributes:
        retry_after: seconds for the `Retry-After` header.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SettingsError(LoopserveError):
    """A command-line option, environment variable or key file is wrong; the text is one line."""

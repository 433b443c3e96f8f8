"""Errors of the scheduler."""


class InvariantError(Exception):
    """The scheduler's own books don't add up: a bug here, never a request's fault."""

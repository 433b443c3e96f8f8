"""Reading HTTP/1.1 strictly, and answering what can't be read: h11 with our bounds and our error object."""

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import h11
import msgspec
from h11._receivebuffer import ReceiveBuffer

from server.auth import OPEN_PATHS
from server.error_catalogue import (
    MALFORMED_HTTP,
    SLOW_REQUEST,
    TOO_LONG_ADDRESS,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_HEADERS,
    ErrorKind,
)
from server.openai.errors import ApiError

MAX_PROBE_CONNECTIONS = 32
SMALL_PIECE_BYTES = 64
MAX_SMALL_PIECES = 4096
"""Of one body. A piece takes tens of microseconds to read, so a packet of one-byte chunks would hold up everybody."""
RETRY_AFTER_S = 1

_VERSIONS = (b"1.1", b"1.0")


class ConnectionEnd(StrEnum):
    """Why a connection was ended, or a request on it refused, below the application; the label of a counter."""

    CONNECTIONS = "connections"
    """There are too many."""
    DESCRIPTORS = "descriptors"
    """The process has no file descriptor left."""
    HEADERS_LATE = "headers_late"
    """A request's headers began and didn't end in time."""
    TOO_LARGE = "too_large"
    """Address or headers."""
    MALFORMED = "malformed"
    NOT_READING = "not_reading"
    """The client took nothing of its answer."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may cost; times in seconds.

    Attributes:
        header_bytes: of the request line and all headers together.
        connections: at once.
    """

    header_timeout: float
    write_timeout: float
    headers: int
    header_bytes: int
    connections: int

    @property
    def probe_connections(self) -> int:
        """Connections beyond the limit on which only probes are answered: a full server should still say it lives."""
        return max(1, min(MAX_PROBE_CONNECTIONS, self.connections // 8))


class StrictH11(h11.Connection):
    """h11's reader of requests, with bounds on headers and without the readings that proxies disagree about.

    Attributes:
        refused_as: the error that fits the last request which could not be read.
        only_probes: whether no other requests are taken.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._limits = limits
        self._receive_buffer = _UnfoldedLines()
        self._small_pieces = 0
        self.refused_as = MALFORMED_HTTP
        self.only_probes = False

    def next_event(self) -> Any:
        """The next thing that the client did.

        Raises:
            h11.RemoteProtocolError: it is no acceptable HTTP.
        """
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                in_address = b"\n" not in self.trailing_data[0]
                self.refused_as = TOO_LONG_ADDRESS if in_address else TOO_MANY_HEADERS
            raise
        if type(event) is h11.Request:
            self._check(event)
            self._small_pieces = 0
        elif type(event) is h11.Data and len(event.data) < SMALL_PIECE_BYTES:
            self._small_pieces += 1
            if self._small_pieces > MAX_SMALL_PIECES:
                raise h11.RemoteProtocolError("body in crumbs")
        return event

    def _check(self, request: h11.Request) -> None:
        """Refuse a request by its size, or by what only h11 lets through.

        With two lengths, what one server takes for a request's end, another may not.
        """
        size = sum(len(name) + len(value) + 4 for name, value in request.headers)
        if len(request.target) > self._limits.header_bytes:
            self.refused_as = TOO_LONG_ADDRESS
        elif len(request.headers) > self._limits.headers or (
            size + len(request.target) > self._limits.header_bytes
        ):
            self.refused_as = TOO_MANY_HEADERS
        elif bytes(request.http_version) not in _VERSIONS or _has_two_lengths(request):
            self.refused_as = MALFORMED_HTTP
        elif self.only_probes and request.target.partition(b"?")[0].decode() not in OPEN_PATHS:
            self.refused_as = TOO_MANY_CONNECTIONS
        else:
            return
        raise h11.RemoteProtocolError("refused")


def _has_two_lengths(request: h11.Request) -> bool:
    names = {bytes(name) for name, _ in request.headers}
    return b"content-length" in names and b"transfer-encoding" in names


class _UnfoldedLines(ReceiveBuffer):
    """h11's buffer, but a header that goes on in a second line is an error (RFC 9112, 5.2)."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines up to the first empty one, if that is there."""
        lines = super().maybe_extract_lines()
        if lines and any(line.startswith((b" ", b"\t")) for line in lines[1:]):
            raise h11.RemoteProtocolError("folded header")
        return lines


def end_of(kind: ErrorKind) -> ConnectionEnd:
    """What a refusal counts as."""
    if kind is TOO_MANY_CONNECTIONS:
        return ConnectionEnd.CONNECTIONS
    if kind is SLOW_REQUEST:
        return ConnectionEnd.HEADERS_LATE
    return (
        ConnectionEnd.TOO_LARGE if kind in (TOO_LONG_ADDRESS, TOO_MANY_HEADERS) else ConnectionEnd.MALFORMED
    )


def refusal(kind: ErrorKind, limits: ConnectionLimits) -> bytes:
    """A whole response with the error object, for a request that the application never sees."""
    error = ApiError.of(kind, count=limits.headers, bytes=limits.header_bytes)
    body = msgspec.json.encode(error.body())
    lines = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    if kind is TOO_MANY_CONNECTIONS:
        lines["Retry-After"] = str(RETRY_AFTER_S)
    head = f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode() + body

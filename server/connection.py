"""One HTTP connection: uvicorn's h11 protocol with a deadline on everything a client may keep it waiting for.

uvicorn waits for ever: for a request's headers, for a client that does not read, for one that goes on sending after its
answer. Each such connection holds a file descriptor, some also a running sequence. Here

* headers have to come within a time, from the connection or from the first byte of a further request;
* a client that takes nothing of its answer for a time is cut off, which the application sees as a disconnect;
* what is refused before the application sees it gets a status and the error object that every other error has;
* a connection that is closed while its client still sends is closed politely: its end is announced, and what still
  comes is thrown away for a bounded time. Closed at once, the client would get a reset instead of its answer.

The time for a request's body is `server.body_limit`'s, as an answer can still be made there.

What is used of uvicorn beyond its public interface is pinned by tests/server/test_connection.py.
"""

import asyncio
import contextlib
import enum
import fcntl
import math
import sys
import termios
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.error_catalogue import SLOW_REQUEST, ErrorKind
from server.strict_http import ConnectionEnd, ConnectionLimits, StrictH11, end_of, refusal

PROBE_S = 1.0
"""For each deadline of a connection that only exists for probes."""
POLITE_CLOSE_S = 5.0
POLITE_CLOSE_BYTES = 64 << 20


class _Owed(enum.Enum):
    """What the client has to do before the connection's deadline."""

    HEADERS = enum.auto()
    REST_OF_BODY = enum.auto()
    """Its answer came before its body was read; what still comes is thrown away."""
    LEAVE = enum.auto()
    """Its connection has ended on our side."""


class Connection(H11Protocol):
    """One client's connection. uvicorn makes it, with what is ours bound by `functools.partial`."""

    conn: StrictH11
    transport: "PoliteTransport"

    def __init__(
        self, *args: Any, limits: ConnectionLimits, on_end: Callable[[ConnectionEnd], None], **kwargs: Any
    ) -> None:
        """Args: `on_end` is told of each end that the application doesn't see."""
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._on_end = on_end
        self.conn = StrictH11(limits)
        self._owed: _Owed | None = None
        self._owed_timer: asyncio.TimerHandle | None = None
        self._thrown_away = 0
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)
        # Whatever the kernel does not take at once counts as a client that does not read.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(PoliteTransport(transport, self._close))
        beyond = len(self.connections) - self._limits.connections
        if beyond > self._limits.probe_connections:
            self._on_end(ConnectionEnd.CONNECTIONS)
            transport.abort()
            return
        self.conn.only_probes = beyond > 0
        self._watch_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._set_owed(None, 0)
        self._stop_write_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if self._owed is _Owed.LEAVE or self._owed is _Owed.REST_OF_BODY:
            self._thrown_away += len(data)
            if self._thrown_away > POLITE_CLOSE_BYTES:
                self._abort()
                return
        if self._owed is not _Owed.LEAVE:
            super().data_received(data)
            self._watch_client()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP, in our shape and with the status that says what is wrong."""
        self._refuse(self.conn.refused_as)

    def on_response_complete(self) -> None:
        """The application has answered."""
        super().on_response_complete()
        self._watch_client()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._watch_writing(self.transport.unread())

    def resume_writing(self) -> None:
        """The client has taken everything."""
        self._stop_write_timer()
        super().resume_writing()

    def shutdown(self) -> None:
        """The server stops: nobody is waited for who has their answer."""
        if self._owed is _Owed.LEAVE:
            self._abort()
        else:
            super().shutdown()

    def _should_upgrade(self) -> bool:
        """Nothing to upgrade to; a request for it is answered as if it had not asked, without a line in the log."""
        return False

    def _watch_client(self) -> None:
        """Set the deadline for what the client has to do now, or clear it."""
        if self._owed is _Owed.LEAVE or self.transport.is_closing():
            return
        answered = self.cycle is None or self.cycle.response_complete
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._set_owed(_Owed.HEADERS, self._header_timeout())
        elif self.conn.their_state is h11.SEND_BODY and answered:
            self._set_owed(_Owed.REST_OF_BODY, POLITE_CLOSE_S)
        else:
            self._set_owed(None, 0)

    def _header_timeout(self) -> float:
        most = PROBE_S if self.conn.only_probes else math.inf
        return min(most, self._limits.header_timeout)

    def _set_owed(self, owed: _Owed | None, seconds: float) -> None:
        """Begin to wait for something; a wait that goes on keeps its deadline."""
        if owed is self._owed:
            return
        if self._owed_timer is not None:
            self._owed_timer.cancel()
        self._owed = owed
        self._thrown_away = 0
        self._owed_timer = None if owed is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._owed is _Owed.HEADERS and self.conn.trailing_data[0]:
            self._refuse(SLOW_REQUEST)
        elif self._write_timer is not None:  # still taking its answer, which that timer watches
            self._owed_timer = self.loop.call_later(POLITE_CLOSE_S, self._too_late)
        else:
            self._abort()

    def _watch_writing(self, left: int) -> None:
        """Cut the client off if it takes nothing; a slow one may go on."""
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self._limits.write_timeout, self._check_writing, left)

    def _check_writing(self, before: int) -> None:
        left = self.transport.unread()
        if left < before:
            self._watch_writing(left)
        else:
            self._on_end(ConnectionEnd.NOT_READING)
            self._abort()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, kind: ErrorKind) -> None:
        """Answer without the application and end the connection."""
        self._on_end(end_of(kind))
        if self.cycle is not None and not self.cycle.response_complete:
            # A request is being read; its handler shall not wait for the rest.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self._abort()
                return
        self.transport.write(refusal(kind, self._limits))
        self._leave()

    def _close(self) -> None:
        """What uvicorn's closing of the transport does."""
        sending = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        if sending and not self.transport.is_closing():
            self._leave()
        elif self._owed is not _Owed.LEAVE:
            self._set_owed(None, 0)
            self.transport.close_now()

    def _leave(self) -> None:
        """End our side, and throw away what the client still sends until it has seen that."""
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self.transport.write_eof()
        self.flow.resume_reading()
        # A probe may be waiting for the place.
        self._set_owed(_Owed.LEAVE, PROBE_S if self.conn.only_probes else POLITE_CLOSE_S)

    def _abort(self) -> None:
        self.transport.abort()


class PoliteTransport(asyncio.Transport):
    """What uvicorn writes to: a transport whose closing is the connection's decision."""

    def __init__(self, inner: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self._inner = inner
        self._close = close
        self._ended = False
        self.write = inner.write  # type: ignore[method-assign]  # every event of a stream goes through here, twice

    def close(self) -> None:
        """Close as politely as need be."""
        self._close()

    def close_now(self) -> None:
        """Close when everything is written."""
        self._inner.close()

    def abort(self) -> None:
        """Close at once."""
        self._inner.abort()

    def write_eof(self) -> None:
        """Tell the client that nothing more comes."""
        self._ended = True
        self._inner.write_eof()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._ended or self._inner.is_closing()

    def pause_reading(self) -> None:
        """Let the client wait."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._inner.resume_reading()

    def unread(self) -> int:
        """Bytes that were written and that the client's machine has not acknowledged.

        The kernel takes megabytes, and more only when a third of them is gone: what waits here alone would not show
        that a slow client reads.
        """
        count = bytearray(4)
        # Not for every kind of socket on every system; then what waits here has to do.
        with contextlib.suppress(OSError, ValueError):
            fcntl.ioctl(self._inner.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
        return self._inner.get_write_buffer_size() + int.from_bytes(count, sys.byteorder)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Addresses and the like."""
        return self._inner.get_extra_info(name, default)

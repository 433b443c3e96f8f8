"""The listening socket, and what a process does that runs out of file descriptors."""

import contextlib
import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from server.errors import SettingsError

logger = logging.getLogger(__name__)

BACKLOG = 2048
OWN_DESCRIPTORS = 64
"""For everything that is no connection: libraries, the engine's sockets, a restart of it, grammars' trials, probes."""
MIN_CONNECTIONS = 8
WARN_EVERY_S = 10.0
_EXHAUSTED = frozenset([errno.EMFILE, errno.ENFILE])


class Listener(socket.socket):
    """A listening socket that turns clients away when the process has no file descriptor for them.

    asyncio would leave them waiting, log thousands of lines per second about it and try again a second later. One
    descriptor in reserve is enough to accept a client and close the connection.

    Attributes:
        on_turned_away: called for each such client.
    """

    def __init__(self, listening: socket.socket) -> None:
        """Take over a socket."""
        super().__init__(listening.family, listening.type, listening.proto, listening.detach())
        self._reserve = os.open(os.devnull, os.O_RDONLY)
        self._warned = -WARN_EVERY_S
        self.on_turned_away: Callable[[], None] = lambda: None

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, which sends what it is given at once.

        Nagle's algorithm would hold the second of two small writes back until the client has acknowledged the first,
        for which its kernel takes 40 ms. asyncio turns it off only for sockets that were made with TCP's number.

        Raises:
            BlockingIOError: there is none, or none that could be kept.
        """
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._turn_away()
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection, address
        raise BlockingIOError(errno.EAGAIN, "out of file descriptors")

    def close(self) -> None:
        """Stop listening."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        super().close()

    def _turn_away(self) -> None:
        self.on_turned_away()
        if time.monotonic() - self._warned >= WARN_EVERY_S:
            self._warned = time.monotonic()
            logger.warning("out of file descriptors; connections are closed. Raise the limit (ulimit -n).")
        if self._reserve >= 0:
            os.close(self._reserve)
        self._reserve = -1
        with contextlib.suppress(OSError):
            connection, _ = super().accept()
            connection.close()
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY)


def bind(host: str, port: int) -> Listener:
    """A listening socket.

    Raises:
        SettingsError: the address is in use or can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return Listener(socket.create_server((host, port), family=family, backlog=BACKLOG))
    except OSError as error:
        raise SettingsError(f"can't listen on {host}:{port}: {error.strerror or error}") from None


def connections_possible(wanted: int) -> int:
    """How many connections there are file descriptors for, after raising the process's own limit if it may.

    Args:
        wanted: most connections by the settings; the result is no more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    possible = max(MIN_CONNECTIONS, soft - OWN_DESCRIPTORS)
    level = logging.WARNING if possible < wanted // 2 else logging.INFO
    logger.log(
        level,
        "at most %d connections instead of %d: a process may have %d files here",
        possible,
        wanted,
        soft,
    )
    return min(possible, wanted)

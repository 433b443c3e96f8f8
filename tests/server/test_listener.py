"""The listening socket's own promises; what happens without file descriptors is in test_live_limits."""

import socket

from server.listener import bind


def test_small_writes_are_not_held_back() -> None:
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as client:
        accepted, address = listening.accept()
        with accepted:
            assert address == client.getsockname()
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

"""Settings of TCP sockets that both sides want. Knows no Stratum."""

from __future__ import annotations

from typing import Any

from gevent import socket

KEEPALIVE_IDLE, KEEPALIVE_EVERY, KEEPALIVE_PROBES = 30, 10, 3  # seconds, seconds, number
# Milliseconds that bytes may wait for a peer to take them: one that vanished, or stopped reading, is noticed by the
# kernel although there is something to send (keepalive is for connections without).
USER_TIMEOUT = 90_000


def tune(sock: Any) -> None:
    """No delay for small writes; a peer that vanished is noticed by the kernel within a minute or two."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", KEEPALIVE_IDLE), ("TCP_KEEPINTVL", KEEPALIVE_EVERY),
                          ("TCP_KEEPCNT", KEEPALIVE_PROBES), ("TCP_USER_TIMEOUT", USER_TIMEOUT)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

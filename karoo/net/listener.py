"""Accept connections. Knows no Stratum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import socket
from gevent.server import StreamServer

from karoo.net.dialer import tune

BACKLOG = 4096  # connections that the kernel keeps while the loop is busy: a farm that comes back at once


class ListenError(Exception):
    """The address cannot be listened on; the text says which and why."""


def listening_socket(host: str, port: int) -> Any:
    """A gevent socket that listens; port 0 takes any free one. Raises ListenError.

    Options are set on the listening socket: Linux hands them on to what it accepts.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(sock)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as failure:
        sock.close()
        reason = getattr(failure, "strerror", None) or failure
        raise ListenError(f"cannot listen on {host}:{port}: {reason}") from failure
    return sock


class Listener:
    """A listening TCP socket that hands each connection to `handle(sock)` in a greenlet of its own."""

    def __init__(self, host: str, port: int, handle: Callable[[Any], None]) -> None:
        self._handle = handle
        sock = listening_socket(host, port)
        self.host, self.port = sock.getsockname()[:2]
        self._server = StreamServer(sock, self._on_connection)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Stop accepting; what was accepted is not touched."""
        self._server.close()

    def _on_connection(self, sock: Any, _address: Any) -> None:
        self._handle(sock)

"""Accept connections, also when there is no descriptor left for them. Knows no Stratum."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from collections.abc import Callable
from typing import IO, Any

from gevent import socket
from gevent.server import StreamServer

from karoo.net.tcp import tune
from karoo.units import place

BACKLOG = 4096  # connections that the kernel keeps while the loop is busy: a farm that comes back at once
PAUSE = 0.1  # seconds without accepting, where not even a connection that is closed at once can be accepted

_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
_NO_MEMORY = {errno.ENOBUFS, errno.ENOMEM}


class ListenError(Exception):
    """The address cannot be listened on; the text says which and why."""


def listening_socket(host: str, port: int, dual_stack: bool = True) -> Any:
    """A gevent socket that listens; port 0 takes any free one. With `dual_stack` one for all IPv6 addresses takes IPv4
    as well. Raises ListenError.

    Options are set on the listening socket: Linux hands them on to what it accepts.
    """
    six = ":" in host
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(sock)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as failure:
        sock.close()
        reason = getattr(failure, "strerror", None) or failure
        raise ListenError(f"cannot listen on {place(host, port)}: {reason}") from failure
    return sock


def passed_socket(descriptor: int) -> Any:
    """A gevent socket of a TCP socket that listens already, opened by whoever started this process."""
    sock = socket.socket(fileno=descriptor)
    tune(sock)
    sock.listen(BACKLOG)  # whoever opened it may have wanted fewer
    return sock


class Listener:
    """Listening TCP sockets that hand each connection to `handle(sock, address)`, which owns it then. That is called
    by the loop: it must neither wait nor raise.

    `starved()` is called for each connection that was closed at once because no descriptor was left.
    """

    def __init__(self, socks: list[Any], handle: Callable[[Any, Any], None], starved: Callable[[], None]) -> None:
        self.addresses = [sock.getsockname()[:2] for sock in socks]
        self.host, self.port = self.addresses[0]
        self._servers = [_Server(sock, handle) for sock in socks]
        for server in self._servers:
            server.starved = starved  # type: ignore[method-assign]

    def __str__(self) -> str:
        return ", ".join(place(*address) for address in self.addresses)

    def start(self) -> None:
        for server in self._servers:
            server.start()

    @property
    def is_open(self) -> bool:
        """It accepts connections."""
        return all(server.started for server in self._servers)

    def stop(self) -> None:
        """Stop accepting; what was accepted is not touched."""
        for server in self._servers:
            server.close()


class Frugal(StreamServer):
    """Without a descriptor gevent's server prints a traceback, waits, and lets clients hang in the kernel's queue.
    This one keeps a spare descriptor: with it, it accepts and closes, so that each client knows at once.

    Nothing here is closed by `os.close`: gevent's waits for the loop's next turn before it frees the descriptor.
    """

    _spare: IO[bytes] | None = None

    def starved(self) -> None:
        """A connection was closed because no descriptor was left for it."""

    def start_accepting(self) -> None:
        """As `StreamServer.start_accepting`, with a descriptor set aside."""
        if self._spare is None:
            self._keep_spare()
        super().start_accepting()

    def do_read(self) -> Any:
        """The next connection, as `StreamServer.do_read`; None when there is none to be had now."""
        try:
            return super().do_read()
        except OSError as failure:
            if failure.errno in _NO_DESCRIPTOR:
                self._close_next()
            elif failure.errno in _NO_MEMORY:
                self._pause()
            elif failure.errno == errno.EBADF:  # closed on this side
                raise
            return None  # else the peer was gone before it was accepted

    def _keep_spare(self) -> None:
        try:
            self._spare = open(os.devnull, "rb", buffering=0)  # noqa: SIM115 - it is there to be open
        except OSError as failure:
            if failure.errno not in _NO_DESCRIPTOR:
                raise

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _close_next(self) -> None:
        """Accept the next one with the spare descriptor, and close it."""
        self._drop_spare()
        try:
            stdlib_socket.close(self.socket._accept()[0])
            self.starved()
        except BlockingIOError:
            return  # it left
        except OSError:
            self._pause()  # another process or thread took the descriptor
        finally:
            self._keep_spare()

    def _pause(self) -> None:
        """Accept again a little later: a socket that is readable and cannot be accepted from would spin."""
        self.stop_accepting()
        self._timer = self.loop.timer(PAUSE)
        self._timer.start(self._start_accepting_if_started)

    def close(self) -> None:
        """Stop listening."""
        super().close()
        self._drop_spare()


class _Server(Frugal):
    """Hands connections on without a greenlet, and does not close them when that is done."""

    def do_handle(self, sock: Any, address: Any) -> None:
        self._handle(sock, address)

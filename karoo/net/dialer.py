"""Connect to a pool: TCP, TLS, SOCKS5, under one deadline. Knows no Stratum."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

import gevent
import socks
from gevent import socket
from gevent import ssl as gevent_ssl

KEEPALIVE_IDLE, KEEPALIVE_EVERY, KEEPALIVE_PROBES = 30, 10, 3  # seconds, seconds, number


class DialError(Exception):
    """The peer could not be reached; the text says at which step and why."""


@dataclass(slots=True, frozen=True)
class Destination:
    """Where to connect to, and how."""

    host: str
    port: int
    tls: bool = False
    verify: bool = True
    socks_host: str = ""  # empty: straight
    socks_port: int = 1080
    socks_user: str = ""
    socks_password: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def dial(to: Destination, timeout: float) -> Any:
    """A connected gevent socket, handshakes included, within `timeout` seconds. Raises DialError.

    Through SOCKS5 the name is resolved by the SOCKS server.
    """
    step, sock = "connect", None
    deadline = gevent.Timeout.start_new(timeout)
    try:
        sock = _through_socks(to) if to.socks_host else socket.create_connection((to.host, to.port))
        tune(sock)
        if to.tls:
            step = "TLS handshake"
            sock = tls_context(to.verify).wrap_socket(sock, server_hostname=to.host)
        connected, sock = sock, None
        return connected
    except gevent.Timeout as expired:
        if expired is not deadline:
            raise
        raise DialError(f"{step} with {to}: no answer within {timeout:g} s") from None
    except (OSError, socks.ProxyError) as failure:
        raise DialError(f"{step} with {to}: {_reason(failure)}") from failure
    finally:
        deadline.close()
        if sock is not None:
            sock.close()


def _through_socks(to: Destination) -> Any:
    sock = socks.socksocket()
    sock.set_proxy(socks.SOCKS5, to.socks_host, to.socks_port, rdns=True,
                   username=to.socks_user or None, password=to.socks_password or None)
    try:
        sock.connect((to.host, to.port))
        return socket.socket(fileno=sock.detach())  # PySocks is done; the plain socket is faster
    finally:
        sock.close()


def tls_context(verify: bool) -> Any:
    """A client context that checks the peer against the system's store, unless told not to."""
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if verify:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def tune(sock: Any) -> None:
    """No delay for small writes; a peer that vanished is noticed by the kernel within a minute or so."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", KEEPALIVE_IDLE), ("TCP_KEEPINTVL", KEEPALIVE_EVERY),
                          ("TCP_KEEPCNT", KEEPALIVE_PROBES)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _reason(failure: Exception) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"certificate refused: {failure.verify_message}"
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__

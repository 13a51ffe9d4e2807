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
# Milliseconds that bytes may wait for a peer to take them: one that vanished, or stopped reading, is noticed by the
# kernel although there is something to send (keepalive is for connections without).
USER_TIMEOUT = 90_000

TLS_HANDSHAKE = "TLS handshake"  # a step of the dial

# What is wrong with a certificate, and how to mend it, by OpenSSL's number for it: X509_V_ERR_...
_CERTIFICATES = {
    **dict.fromkeys((2, 18, 19, 20, 21),  # UNABLE_TO_GET_ISSUER_CERT, ..., UNABLE_TO_VERIFY_LEAF_SIGNATURE
                    ("of an unknown authority", "add that to the certificates which this system trusts")),
    9: ("not yet valid", "is the clock of this machine right?"),
    10: ("expired", "the pool has to renew it, unless the clock of this machine is wrong"),
    **dict.fromkeys((62, 64), ("for another name", "set host to a name that it is for")),  # of hosts, of IP addresses
}
_NO_TLS = "is this its port for TLS? If it has none, set tls: false"


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
    sock = None
    step = f"connect through the SOCKS5 proxy {to.socks_host}:{to.socks_port}" if to.socks_host else "connect"
    deadline = gevent.Timeout.start_new(timeout)
    try:
        sock = _through_socks(to) if to.socks_host else socket.create_connection((to.host, to.port))
        tune(sock)
        if to.tls:
            step = TLS_HANDSHAKE
            # The handshake apart: a socket whose handshake is given up inside of wrap_socket is never closed.
            sock = tls_context(to.verify).wrap_socket(sock, server_hostname=to.host, do_handshake_on_connect=False)
            sock.do_handshake()
        connected, sock = sock, None
        return connected
    except gevent.Timeout as expired:
        if expired is not deadline:
            raise
        raise DialError(f"{step} with {to}: no answer within {timeout:g} s") from None
    except (OSError, UnicodeError, socks.ProxyError) as failure:  # Unicode: of a name that is none
        raise DialError(f"{step} with {to}: {_reason(step, failure)}") from failure
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
    """No delay for small writes; a peer that vanished is noticed by the kernel within a minute or two."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", KEEPALIVE_IDLE), ("TCP_KEEPINTVL", KEEPALIVE_EVERY),
                          ("TCP_KEEPCNT", KEEPALIVE_PROBES), ("TCP_USER_TIMEOUT", USER_TIMEOUT)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _reason(step: str, failure: Exception) -> str:
    """What happened, and how to mend it where that can be told.

    The first words are what counts: where losses are counted, the text is cut, at the latest at a semicolon.
    """
    if isinstance(failure, ssl.SSLCertVerificationError):
        return _certificate(failure.verify_code, failure.verify_message.rstrip("."))
    if step == TLS_HANDSHAKE and isinstance(failure, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)):
        return f"the pool closed the connection: {_NO_TLS}"
    if isinstance(failure, ssl.SSLError) and failure.reason == "WRONG_VERSION_NUMBER":
        return f"the pool's answer is not TLS: {_NO_TLS}"
    if isinstance(failure, socks.GeneralProxyError):  # PySocks calls all that the proxy answers a "Socket error"
        return f"SOCKS5 proxy: {failure.socket_err or failure}"
    if isinstance(failure, socket.gaierror):
        return f"the name does not resolve ({failure.strerror}): check host, and the DNS of this machine"
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__


def _certificate(code: int, message: str) -> str:
    if code not in _CERTIFICATES:
        return f"certificate refused: {message}"
    wrong, mend = _CERTIFICATES[code]
    return f"certificate refused: {wrong} ({message}): {mend}"

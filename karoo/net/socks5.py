"""Through a SOCKS5 proxy (RFC 1928, RFC 1929) to somewhere else, by PySocks. Knows no Stratum."""

from __future__ import annotations

import re
from typing import Any

import socks
from gevent import socket

from karoo.net.addresses import Address
from karoo.net.dialwords import plain

_LONGEST = 255  # the protocol has one byte for a length

# What a proxy answers in place of a connection, and how to mend it.
_REPLIES = {
    0x01: ("the proxy failed", "its log may say why, perhaps the pool's name does not resolve there"),
    0x02: ("the proxy's rules forbid it", "allow it there"),
    0x03: ("the proxy has no network that leads to the pool", "check host, and the machine of the proxy"),
    0x04: ("the proxy cannot reach the pool's host", "check host"),
    0x05: ("the pool refuses the proxy's connection", "check host and port"),
    0x06: ("the pool does not answer the proxy", "check host and port"),
    0x07: ("the proxy makes no connections for others", "check socks_proxy.port"),
    0x08: ("the proxy does not take such an address", "set host to a name, or to an address of the other IP version"),
}


class _Octet(int):
    """PySocks writes a length as a character in UTF-8: from 128 on these are two bytes, where one is meant."""

    def encode(self) -> bytes:
        return bytes([self])


socks.chr = _Octet  # which characters it writes otherwise: none


def too_long(host: str, user: str, password: str) -> str:
    """What has more bytes than the protocol can tell; "" when nothing has."""
    for what, octets in (("host", host.encode("idna")), ("socks_proxy.username", user.encode()),
                         ("socks_proxy.password", password.encode())):
        if len(octets) > _LONGEST:
            return f"{what} has {len(octets)} bytes, and SOCKS5 takes {_LONGEST}: it has to be shorter"
    return ""


def connect(proxy: Address, host: str, port: int, user: str, password: str) -> Any:
    """A gevent socket that leads to `host`, whose name the proxy resolves. Waits as long as it takes. Raises OSError,
    for `words`. The name must be one for IDNA."""
    sock = socks.socksocket(proxy.family)
    try:
        sock.set_proxy(socks.SOCKS5, str(proxy), proxy.place[1], rdns=True, username=user or None,
                       password=password or None)
        sock.connect((host, port))
        return socket.socket(fileno=sock.detach())  # PySocks is done; the plain socket is faster
    finally:
        sock.close()


def words(failure: Exception, user: str, password: str) -> str:
    """Why `connect` did not, and how to mend it. PySocks calls whatever comes behind its connection "Socket error"."""
    why = getattr(failure, "socket_err", None) or failure
    if isinstance(failure, socks.ProxyConnectionError):
        return f"the proxy itself: {plain(why)}: does it run? Check socks_proxy.host and socks_proxy.port"
    if isinstance(why, socks.SOCKS5AuthError):
        return _unauthorized(str(why), user, password)
    if isinstance(why, socks.SOCKS5Error):
        return _refused(str(why))
    if isinstance(why, (ConnectionResetError, BrokenPipeError)) or "closed unexpectedly" in str(why):
        return "the proxy closed the connection: does it speak SOCKS5? Check socks_proxy.port"
    if isinstance(why, socks.GeneralProxyError):
        return "the proxy does not speak SOCKS5: check socks_proxy.port (that of a SOCKS4 or HTTP proxy will not do)"
    return plain(why)


def _unauthorized(said: str, user: str, password: str) -> str:
    if "failed" in said:
        return "the proxy refuses the user name or the password: check socks_proxy.username and socks_proxy.password"
    if not (user and password):  # PySocks offers none without both
        return "the proxy wants a user name and a password: set socks_proxy.username and socks_proxy.password"
    return "the proxy takes neither this side's password nor none: have it allow one of them"


def _refused(said: str) -> str:
    """PySocks has a reply as `0x05: Connection refused`."""
    code = re.match("0x[0-9a-f]{2}", said)
    if code is None or int(code[0], 16) not in _REPLIES:
        return f"the proxy refuses: {said}"
    what, mend = _REPLIES[int(code[0], 16)]
    return f"{what} ({code[0]}): {mend}"

"""A host's addresses, in the order in which they are to be tried."""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from gevent import monkey, socket

MOST = 6  # addresses of a name that are tried: a deadline that is cut in more slices is too short for each
_FAMILIES = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6)
_numeric = monkey.get_original("socket", "getaddrinfo")  # without a detour: it never waits for an IP address


class Address(NamedTuple):
    """As `socket` takes it, and as people read it: without the port."""

    family: int
    kind: int
    protocol: int
    place: tuple[Any, ...]

    def __str__(self) -> str:
        host = str(self.place[0])
        if self.family == stdlib_socket.AF_INET6 and self.place[3]:
            return f"{host}%{self.place[3]}"
        return host


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host now, `MOST` of them, one at least. The running greenlet waits for the system's resolver,
    in one of gevent's threads. Raises OSError. The name must be one for IDNA: the thread would fail over another one,
    and gevent logs that with a traceback.

    An IP address waits for nobody: all of those threads may be waiting for a DNS that does not answer.
    """
    try:
        found = _numeric(host, port, 0, stdlib_socket.SOCK_STREAM, 0, stdlib_socket.AI_NUMERICHOST)
    except OSError:
        found = socket.getaddrinfo(host, port, 0, stdlib_socket.SOCK_STREAM)
    addresses = alternated(Address(family, kind, protocol, place) for family, kind, protocol, _, place in found)
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "No address associated with hostname")
    return addresses[:MOST]


def alternated(addresses: Iterable[Address]) -> list[Address]:
    """In the order given (RFC 6724), but alternately of one family and the other (RFC 8305): where IPv6 leads nowhere,
    only each second attempt is lost to it."""
    families: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        if address.family in _FAMILIES:
            families.setdefault(address.family, []).append(address)
    rounds = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in rounds if address is not None]

"""Kinds of option values that are addresses, of this side and of others. No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from karoo.configfile import Scalar
from karoo.configkinds import LONGEST_TEXT, Kind, Unfit
from karoo.policy import addresses

_HOST = re.compile(r"[\w.-]{1,253}")
_URL = re.compile(r"(?:([\w+.-]+)://)?(?:.*@)?(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::([0-9]+))?(?:/.*)?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_POOL_URL = re.compile(r"([\w+.-]+)://(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+)):([0-9]{1,5})/?")
_SCHEMES = {"stratum+tcp": False, "stratum+ssl": True, "stratum+tls": True, "stratum": False, "tcp": False, "ssl": True,
            "tls": True}  # whether that is TLS
_PASSED = re.compile(r"systemd:([!-9;-~]{1,255})")  # what systemd allows as a FileDescriptorName=


class Address(NamedTuple):
    """Where to listen: a host name or an IP address without brackets, and a port (0: any free one)."""

    host: str
    port: int


class Place(NamedTuple):
    """Where a pool is: a host name or an IP address without brackets, a port, and whether TLS is spoken there."""

    host: str
    port: int
    tls: bool


def parse_address(text: str) -> Address:
    """The pieces of `host:port`, `:port` (all IPv4 addresses) or `[IPv6]:port`.

    Ports run from 0 (any free port) to 65535. Raises ValueError.
    """
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("not an address of the form host:port, :port or [IPv6]:port")
    if match[1] is not None:
        ipaddress.IPv6Address(match[1])
        return Address(match[1], int(match[3]))
    if match[2] and not _is_host_name(match[2]):
        raise ValueError("not a host name or an IPv4 address before the port")
    return Address(match[2] or "0.0.0.0", int(match[3]))


def passed_name(text: str) -> str:
    """The NAME of `systemd:NAME`, a socket that systemd passes; "" for an address."""
    match = _PASSED.fullmatch(text)
    return match[1] if match else ""


def parse_pool_url(text: str) -> Place:
    """The pieces of `stratum+tcp://host:port` or `stratum+ssl://host:port`. Raises ValueError with an advice."""
    match = _POOL_URL.fullmatch(text[:LONGEST_TEXT])
    if match is None:
        raise ValueError("user and password stand in user and pass" if "@" in text else "")
    scheme, six, host, port = match.groups()
    if scheme.lower() not in _SCHEMES:
        raise ValueError(f"known are {', '.join(name for name in _SCHEMES)}")
    if not 1 <= int(port) <= 65535 or not (_is_ipv6(six) if six else _is_host_name(host)):
        raise ValueError("")
    return Place(six or host, int(port), _SCHEMES[scheme.lower()])


class Listen(Kind[str]):
    """An address to listen on, kept as it is written; `parse_address` and `passed_name` take it apart."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.wants = ("an address such as 0.0.0.0:3333, :3333 or [::1]:3333, or systemd:NAME"
                      + (', or "" for none' if empty else ""))

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if (not value and self.empty) or passed_name(value):
            return
        try:
            parse_address(value)
        except ValueError as error:
            raise Unfit from error


class Host(Kind[str]):
    """A host name or an IP address alone, without scheme, port or brackets."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.wants = "a host name or an IP address"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if not value and self.empty:
            return
        if not _is_ipv6(value) and not _is_host_name(value):
            raise Unfit(_take_apart(value))


class PoolUrl(Kind[str]):
    """A pool's address as miners write it, kept so; `parse_pool_url` takes it apart. "" for none."""

    wants = "a URL such as stratum+tcp://pool.example.org:3333, or stratum+ssl://pool.example.org:3334 for TLS"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        if value:
            try:
                parse_pool_url(value)
            except ValueError as error:
                raise Unfit(str(error)) from error


class Network(Kind[str]):
    """A network or a single address, kept as it is written; `addresses.network` reads it."""

    wants = "a network such as 10.0.0.0/8 or 2001:db8::/32, or an address"

    def parse(self, scalar: Scalar) -> str:
        return scalar.text

    def check(self, value: str) -> None:
        try:
            addresses.network(value)
        except ValueError as error:
            raise Unfit from error


class Origin(Kind[str]):
    """Where a web page comes from, as browsers say it: in lower case, without a path."""

    wants = 'an origin such as https://farm.example.org or http://192.168.1.5:8080, or "*" for any'

    def parse(self, scalar: Scalar) -> str:
        return scalar.text.lower()

    def check(self, value: str) -> None:
        if value != "*" and not _ORIGIN.fullmatch(value):
            raise Unfit("write no path behind it, not even a slash" if _ORIGIN.match(value) else "")


def in_networks(texts: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address, as text, is in one of the networks, which are written as `Network` takes them."""
    networks = addresses.Networks(addresses.network(text) for text in texts)

    def holds(text: str) -> bool:
        address = addresses.parse(text)
        return address is not None and address in networks

    return holds


def _take_apart(text: str) -> str:
    """Where the pieces of `scheme://host:port` belong; "" where the text is not of that form."""
    match = _URL.fullmatch(text[:LONGEST_TEXT])
    if match is None:
        return ""
    pieces = [f"host: {match[2] or match[3]}"]
    if match[4]:
        pieces.append(f"port: {match[4]}")
    if match[1] and match[1].lower().endswith(("tls", "ssl", "https", "wss")):
        pieces.append("tls: true")
    return f"write {' and '.join(pieces)}" + (", each on its own line" if len(pieces) > 1 else "")


def _is_host_name(text: str) -> bool:
    try:
        return bool(_HOST.fullmatch(text)) and bool(text.encode("idna"))
    except UnicodeError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True

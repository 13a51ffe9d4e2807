"""Addresses as limits see them: each IPv4 address for itself, IPv6 by /64. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The first 96 bits of IPv6 addresses that stand for the IPv4 address in their last 32: ::ffff:1.2.3.4, as a socket
# for both protocols tells an IPv4 peer, and 64:ff9b::1.2.3.4, as a stateless translator does (RFC 6052, RFC 7755).
_EMBEDDING = (0xFFFF, 0x64FF9B << 64)
_SIX = 1 << 64  # set in the keys of IPv6, so that they differ from those of IPv4


@lru_cache(maxsize=4096)  # a farm comes from one address, and is asked about at each coming and going
def parse(text: str) -> Address | None:
    """The address in `203.0.113.7`, `2001:db8::7`, `fe80::1%eth0`, `[2001:db8::7]` or `::ffff:203.0.113.7`; the last
    is the IPv4 address that it stands for. None for what is no address (a Unix socket, a peer that is gone)."""
    try:
        if ":" not in text:
            return IPv4Address(text)
        six = IPv6Address(text.strip("[]"))
    except ValueError:
        return None
    bits = int(six)
    return IPv4Address(bits & 0xFFFFFFFF) if bits >> 32 in _EMBEDDING else six


def network(text: str) -> Network:
    """The network in `10.0.0.0/8`, `2001:db8::/32`, or in a bare address; bits behind the prefix may be set.

    Raises ValueError with a sentence.
    """
    if ":" not in text:
        return IPv4Network(text, strict=False)
    six = IPv6Network(text, strict=False)
    bits = int(six.network_address)
    if six.prefixlen >= 96 and bits >> 32 in _EMBEDDING:
        return IPv4Network((bits & 0xFFFFFFFF, six.prefixlen - 96))
    return six


def key(address: Address) -> int:
    """What an address is counted under: itself, or its /64, the least that an IPv6 host has for itself."""
    bits = int(address)
    return bits if address.version == 4 else _SIX | bits >> 64


def shown(counted: int) -> str:
    """A key as people read it: `203.0.113.7`, `2001:db8:1:2::/64`."""
    if counted < _SIX:
        return str(IPv4Address(counted))
    return f"{IPv6Address((counted & (_SIX - 1)) << 64)}/64"


class Networks:
    """A list of networks. Looking an address up costs one look for each length of prefix in it, however long it is."""

    __slots__ = ("_four", "_six")

    def __init__(self, networks: Iterable[Network]) -> None:
        found: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for each in networks:
            shift = each.max_prefixlen - each.prefixlen
            found[each.version].setdefault(shift, set()).add(int(each.network_address) >> shift)
        # (bits behind the prefix, the prefixes), shortest prefix first
        self._four = sorted(found[4].items(), reverse=True)
        self._six = sorted(found[6].items(), reverse=True)

    def __bool__(self) -> bool:
        return bool(self._four or self._six)

    def __contains__(self, address: Address) -> bool:
        bits = int(address)
        return any(bits >> shift in prefixes
                   for shift, prefixes in (self._four if address.version == 4 else self._six))

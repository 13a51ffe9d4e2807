"""The DNS: does each name lead to addresses, to how many, and how fast? And does a pool's lead back to the proxy?"""

from __future__ import annotations

import ipaddress
import socket as stdlib_socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

import gevent
from gevent import socket

from karoo import config
from karoo.doctor.findings import Section
from karoo.doctor.ports import ways_of
from karoo.net.addresses import Address, resolve
from karoo.net.dialwords import plain

SLOW = 1.0  # seconds


@dataclass(slots=True)
class Name:
    """What came of a name: its addresses, or why there are none."""

    host: str
    options: list[str]
    addresses: list[Address] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""


def names_of(settings: config.Config) -> list[Name]:
    """The hosts that this machine has to resolve; behind a SOCKS proxy the pool's is that proxy's to resolve."""
    found: dict[str, Name] = {}
    for path, pool in settings.pools_by_path.items():
        by_socks = pool.socks_proxy.enabled
        host, option = (pool.socks_proxy.host, f"{path}.socks_proxy.host") if by_socks else (
            pool.place.host, f"{path}.{'url' if pool.url else 'host'}")
        found.setdefault(host.lower(), Name(host, [])).options.append(option)
    return list(found.values())


def look(name: Name, seconds: float) -> None:
    """Resolve it as the dial does."""
    started, deadline = monotonic(), gevent.Timeout(seconds)
    try:
        with deadline:
            name.host.encode("idna")
            name.addresses = resolve(name.host, 0)
    except gevent.Timeout as expired:
        if expired is not deadline:
            raise
        name.failure = f"no answer within {seconds:g} s"
    except (OSError, UnicodeError) as failure:
        name.failure = plain(failure)
    name.seconds = monotonic() - started


def tell(section: Section, names: Iterable[Name], some_well: bool = False) -> None:
    """What it means; `some_well`: miners can work at one of the pools, whatever else there is."""
    for name in names:
        whose = ", ".join(name.options)
        if _is_address(name.host):
            section.ok("dns.address", name.host, f"is an address: no DNS is needed ({whose})", options=name.options)
        elif name.failure:
            tell = section.warn if some_well else section.fail
            tell("dns.resolve", name.host, f"does not resolve: {name.failure} ({whose})",
                 f"check {name.options[0]}, and the DNS of this machine (/etc/resolv.conf)", options=name.options)
        else:
            six = sum(address.family == stdlib_socket.AF_INET6 for address in name.addresses)
            four = len(name.addresses) - six
            data = {"options": name.options, "ipv4": four, "ipv6": six, "ms": round(name.seconds * 1e3, 1),
                    "addresses": [str(address) for address in name.addresses]}
            kinds = ", ".join(f"{number} {kind}" for number, kind in ((four, "IPv4"), (six, "IPv6")) if number)
            text = f"{kinds}: {', '.join(data['addresses'])}, in {name.seconds * 1e3:.1f} ms"  # type: ignore[arg-type]
            if name.seconds > SLOW:
                section.warn("dns.resolve", name.host, f"{text}: that is slow, and each dial waits for it",
                             "a nearer DNS server", **data)
            else:
                section.ok("dns.resolve", name.host, text, **data)


def leads_back(pool: config.Upstream, name: Name | None, settings: config.Config) -> str:
    """The option of the listener that a pool's address is, where it is this proxy itself: the miners' shares would go
    round in circles. Empty where it is not."""
    if pool.socks_proxy.enabled or name is None:
        return ""
    for way in ways_of(settings):
        if config.passed_name(way.address):
            continue
        listen = config.parse_address(way.address)
        if listen.port == pool.place.port and any(
                str(address) == listen.host or (way.wide and _is_ours(address)) for address in name.addresses):
            return way.option
    return ""


def _is_ours(address: Address) -> bool:
    """Only an address of this machine can be bound."""
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.bind((address.place[0], 0, *address.place[2:]))
    except OSError:
        return False
    return True


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True

"""Can the addresses be listened on? They are bound for a moment, and never listened on: whoever has them keeps them."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gevent import socket

from karoo import config
from karoo.doctor import running
from karoo.doctor.findings import Section
from karoo.doctor.running import Running

PRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


@dataclass(frozen=True, slots=True)
class Way:
    """An address of the configuration, and the option that names it."""

    option: str
    address: str
    dual_stack: bool = True

    @property
    def wide(self) -> bool:
        """All addresses of its kind."""
        return config.parse_address(self.address).host in ("0.0.0.0", "::")


def ways_of(settings: config.Config) -> list[Way]:
    """Every address that the proxy listens on."""
    ways = [Way(f"{path}.address" if settings.listeners else "proxy.listen", one.address, one.dual_stack)
            for path, one in settings.ways_by_path.items()]
    return ways + ([Way("http.listen", settings.http.listen)] if settings.http.listen else [])


def examine(section: Section, settings: config.Config, proxy: Running) -> None:
    """Each address by itself, and all against each other."""
    ways = ways_of(settings)
    for way in ways:
        name = config.passed_name(way.address)
        if name:
            section.note("ports.passed", way.address, f"a socket that systemd passes ({way.option})",
                         f"the socket unit needs FileDescriptorName={name}; it was not looked for", option=way.option)
        elif config.parse_address(way.address).port == 0:
            section.note("ports.any", way.address, f"any free port ({way.option}): it differs from start to start",
                         option=way.option)
        else:
            _bind(section, way, proxy)
    for one, other in clashes(ways):
        section.fail("ports.clash", other.address, f"{other.option} and {one.option} want the same port",
                     "give each its own", faulty=True, option=other.option, other=one.option)


def clashes(ways: list[Way]) -> Iterator[tuple[Way, Way]]:
    """Pairs of which the second cannot be listened on beside the first."""
    plain = [way for way in ways if not config.passed_name(way.address) and config.parse_address(way.address).port]
    for number, other in enumerate(plain):
        for one in plain[:number]:
            mine, theirs = config.parse_address(one.address), config.parse_address(other.address)
            if mine.port == theirs.port and (mine.host == theirs.host or _covers(one, other) or _covers(other, one)):
                yield one, other


def _covers(wide: Way, other: Way) -> bool:
    """Whether all addresses of the first hold that of the second."""
    if not wide.wide:
        return False
    six, other_six = ":" in wide.address.rpartition(":")[0], ":" in other.address.rpartition(":")[0]
    return six == other_six or (six and wide.dual_stack) or (other_six and other.wide and other.dual_stack)


def _bind(section: Section, way: Way, proxy: Running) -> None:
    failure = bind_failure(way)
    if failure is None:
        section.ok("ports.bind", way.address, f"is free ({way.option})", option=way.option)
        return
    if failure.errno == errno.EADDRINUSE:
        _in_use(section, way, proxy)
        return
    mend = {
        errno.EACCES: "ports below "
        f"{_privileged()} want root: choose a higher one, or let systemd pass the socket (systemd:NAME), or allow it "
        "with AmbientCapabilities=CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "no interface of this machine has this address: check it, or listen on 0.0.0.0 or [::]"
        if not way.wide else "IPv6 seems to be switched off here: listen on an IPv4 address",
        errno.EAFNOSUPPORT: "this machine has no IPv6: listen on an IPv4 address",
    }.get(failure.errno or 0, "check the host of the address")
    section.fail("ports.bind", way.address, f"cannot be listened on: {failure.strerror or failure} ({way.option})",
                 mend, option=way.option, errno=errno.errorcode.get(failure.errno or 0))


def bind_failure(way: Way) -> OSError | None:
    """Why an address cannot be had. As the listener does it, but for `listen`: so nobody who connects to whoever has
    it notices, and a proxy that starts meanwhile gets it all the same."""
    host, port = config.parse_address(way.address)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            if ":" in host:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not way.dual_stack)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except stdlib_socket.gaierror as failure:
        return OSError(0, f"the host does not resolve ({failure.strerror})")
    except OSError as failure:
        return failure
    return None


def _in_use(section: Section, way: Way, proxy: Running) -> None:
    port = config.parse_address(way.address).port
    inodes = running.inodes_listening(port)
    holders = running.owners(inodes)
    if any(proxy.is_it(pid) for pid in holders):
        section.ok("ports.bind", way.address, f"held by the proxy that runs with this configuration "
                   f"({running.called(min(filter(proxy.is_it, holders)))}, {way.option})", option=way.option,
                   running=True)
    elif holders:
        whose = ", ".join(map(running.called, sorted(holders)))
        files = (running.config_of(pid) for pid in sorted(holders) if running.is_karoo(pid))
        other = next(filter(None, files), "")
        section.fail("ports.bind", way.address, f"in use by {whose}{f' with {other}' if other else ''}",
                     f"stop that program, or change {way.option}", option=way.option, pids=sorted(holders))
    elif proxy.pid is not None:
        section.ok("ports.bind", way.address, "in use, as it seems by the proxy that runs with this configuration "
                   f"({running.called(proxy.pid) if proxy.pid else 'of another user'}, {way.option})",
                   option=way.option,
                   running=True)
    elif not inodes:
        section.fail("ports.bind", way.address, "in use, although nobody listens there: a connection of this machine "
                     "to "
                     "another may have it as its own port", "try again, and keep it free: sysctl -w "
                     f"net.ipv4.ip_local_reserved_ports={port}", option=way.option, pids=[])
    else:
        section.fail("ports.bind", way.address, "in use by a program of another user",
                     f"`ss -ltnp` tells root which one it is: stop it, or change {way.option}", option=way.option,
                     pids=[])


def _privileged() -> str:
    try:
        return PRIVILEGED.read_text("ascii").strip()
    except OSError:
        return "1024"

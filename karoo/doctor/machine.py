"""The machine and its programs: limits of the system against the miners that are to fit, Python, what is compiled."""

from __future__ import annotations

import os
import platform
import resource
import ssl
import sys
from pathlib import Path

import gevent

from karoo import __version__, config, speed
from karoo.descriptors import RESERVED
from karoo.doctor import running
from karoo.doctor.findings import Section
from karoo.doctor.running import Running
from karoo.net.listener import BACKLOG

# Measured: see docs/performance.md and docs/connections.md. Bytes.
OF_A_MINER, OF_A_TLS_MINER, OF_THE_PROGRAM = 5_000, 22_000, 60_000_000
MIB = 1 << 20
SPARE_PORTS = 1000


def programs(section: Section) -> None:
    """Python, gevent, OpenSSL, and whether the C extension is in use."""
    own = f"{platform.python_implementation()} {platform.python_version()}"
    section.ok("programs.python", "Python", f"{own}, karoo {__version__}", version=own, karoo=__version__)
    section.ok("programs.gevent", "gevent", f"{gevent.__version__}, loop {type(gevent.get_hub().loop).__module__}",
               version=gevent.__version__)
    if ssl.OPENSSL_VERSION_INFO < (3,):
        section.note("programs.openssl", "OpenSSL", f"{ssl.OPENSSL_VERSION} gets no corrections any more",
                     "a newer system", version=ssl.OPENSSL_VERSION)
    else:
        section.ok("programs.openssl", "OpenSSL", ssl.OPENSSL_VERSION, version=ssl.OPENSSL_VERSION)
    found = speed.load()
    if found.write_all is None:
        section.note("programs.speed", "hashing", f"{found.kind}: all works the same, but slower",
                     "apt install gcc python3-dev, and install karoo again" if "KAROO" not in found.kind else
                     "remove it from the environment", kind=found.kind)
    else:
        section.ok("programs.speed", "hashing", found.kind, kind=found.kind)


def limits(section: Section, settings: config.Config, proxy: Running) -> None:
    """What the system allows, against proxy.max_clients and what else the configuration wants."""
    _descriptors(section, settings, proxy)
    _memory(section, settings)
    _queue(section, settings)
    _ports(section, settings)
    if sys.platform != "linux":
        section.note("limits.system", "system", f"{platform.system()}: limits of its kernel are not looked at")


def _descriptors(section: Section, settings: config.Config, proxy: Running) -> None:
    wanted = settings.proxy.max_clients
    limit, whose = resource.getrlimit(resource.RLIMIT_NOFILE)[1], "of this shell; a service may have another"
    of_proxy = running.descriptor_limit(proxy.pid) if proxy.pid else None
    if of_proxy is not None:
        limit, whose = of_proxy[0], f"of the running proxy, process {proxy.pid}"
    if limit == resource.RLIM_INFINITY or limit - RESERVED >= wanted:
        section.ok("limits.descriptors", "open files",
                   "without limit" if limit == resource.RLIM_INFINITY or limit > 1 << 40
                   else f"{limit} ({whose}), enough for {wanted} miners", limit=limit, max_clients=wanted)
    else:
        room = max(1, limit - RESERVED)
        section.warn("limits.descriptors", "open files", f"{limit} ({whose}): room for {room} miners, not the "
                     f"{wanted} of "
                     "proxy.max_clients", f"ulimit -n {wanted + RESERVED} (LimitNOFILE= of systemd, minfds= of "
                     "supervisord)"
                     ", or lower max_clients", limit=limit, max_clients=wanted, room=room)


def _memory(section: Section, settings: config.Config) -> None:
    room = settings.proxy.max_clients
    tls = min(room, sum(way.profile.max_clients or room for way in settings.ways_in if way.tls.enabled))
    needed = OF_THE_PROGRAM + tls * OF_A_TLS_MINER + (room - tls) * OF_A_MINER
    free = available()
    if free is None:
        section.note("limits.memory", "memory", f"some {needed // MIB} MB are needed for {room} miners; how much "
                     "there is "
                     "cannot be told", needed=needed)
    elif free < needed:
        section.warn("limits.memory", "memory", f"{free // MIB} MB can be had, and {room} miners need some "
                     f"{needed // MIB} MB",
                     "more memory, or a lower proxy.max_clients", needed=needed, available=free)
    else:
        section.ok("limits.memory", "memory", f"{free // MIB} MB can be had, {room} miners need some {needed // MIB} "
                   "MB",
                   needed=needed, available=free)


def available() -> int | None:
    """Bytes that this machine, or the container, has left; None where that cannot be told."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass  # no Linux
    most, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if most is not None and used is not None:
        found.append(max(0, most - used))
    return min(found, default=None)


def _queue(section: Section, settings: config.Config) -> None:
    """A farm that comes back at once waits in the kernel's queues."""
    wanted = min(BACKLOG, settings.proxy.max_clients)
    for name in ("net/core/somaxconn", "net/ipv4/tcp_max_syn_backlog"):
        value = _number(f"/proc/sys/{name}")
        dotted = name.replace("/", ".")
        if value is None:
            continue
        if value < wanted and (name == "net/core/somaxconn" or not _number("/proc/sys/net/ipv4/tcp_syncookies")):
            section.warn("limits.queue", dotted, f"{value}: when a farm comes back at once, more than so many miners "
                         "have "
                         "to try again", f"sysctl -w {dotted}={BACKLOG}", name=dotted, value=value, wanted=wanted)
        else:
            section.ok("limits.queue", dotted, str(value), name=dotted, value=value, wanted=wanted)
    tracked = _number("/proc/sys/net/netfilter/nf_conntrack_max")
    wanted = 2 * settings.proxy.max_clients
    if tracked is not None and tracked < wanted:
        section.warn("limits.conntrack", "nf_conntrack_max", f"the firewall follows {tracked} connections, and drops "
                     "more: "
                     f"{settings.proxy.max_clients} miners want {wanted}", "sysctl -w "
                     f"net.netfilter.nf_conntrack_max={wanted}",
                     value=tracked, wanted=wanted)


def _ports(section: Section, settings: config.Config) -> None:
    """Each connection to a pool takes a port of this side."""
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
    except (OSError, ValueError):
        return
    wanted = sum(pool.max_connections for pool in settings.pools) + SPARE_PORTS
    if high - low + 1 < wanted:
        section.warn("limits.local_ports", "ip_local_port_range", f"{low} to {high}: few for connections to pools "
                     "and others",
                     'sysctl -w net.ipv4.ip_local_port_range="32768 60999"', low=low, high=high)


def _number(path: str) -> int | None:
    """The number in a file of the kernel's; None where there is none, or no limit."""
    try:
        text = Path(path).read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def user(section: Section) -> None:
    """Who this is: what root can write says nothing of another user."""
    if os.geteuid() == 0:
        section.note("machine.root", "user", "this is root, who may write everything: what the user of the service "
                     "may, was "
                     "not seen", "run karoo doctor as that user (sudo -u karoo ...)")

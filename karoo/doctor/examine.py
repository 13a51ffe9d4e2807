"""The whole examination, in its order: what is near first, then the pools, all at once and for a limited time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import gevent

from karoo import config, units
from karoo.config import Config
from karoo.configfile import ConfigError
from karoo.doctor import clock, disk, files, machine, names, pools, poolwords, ports
from karoo.doctor import settings as oddities
from karoo.doctor.findings import Report
from karoo.doctor.pools import Facts
from karoo.doctor.running import Running

DEADLINE = 60.0  # seconds for all pools together
DNS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """`offline`: no DNS and no pools. `seconds`: for each pool, all of which are tried at once."""

    offline: bool = False
    seconds: float = DEADLINE


def examine(path: str, wishes: Wishes) -> Report:
    """Everything. Never raises for what it finds; takes `wishes.seconds` and some more at most."""
    logging.getLogger("karoo").addHandler(logging.NullHandler())  # what the proxy would log is found here by itself
    report = Report(path)
    watch = clock.Watch()
    section = report.section("config", "configuration")
    try:
        settings = config.load(path)
    except ConfigError as faults:
        for fault in faults.faults:
            section.fail("config.load", path, str(fault), faulty=True, line=fault.line, option=fault.path)
        machine.programs(report.section("programs", "programs"))
        return report
    section.ok("config.load", path, f"is right: {units.counted(len(settings.ways_in), 'listener')}, "
               f"{units.counted(len(settings.pools), 'pool')}")
    oddities.examine(section, settings)
    files.examine(report.section("files", "files"), path, settings)
    proxy = Running(path, settings.accounting.database, settings.control.socket)
    ports.examine(report.section("ports", "ports"), settings, proxy)
    section = report.section("limits", "limits of this machine")
    machine.limits(section, settings, proxy)
    machine.user(section)
    disk.examine(report.section("disk", "disk"), settings, proxy)
    machine.programs(report.section("programs", "programs"))
    found = [] if wishes.offline else _network(report, settings, wishes.seconds)
    section = report.section("clock", "clock")
    watch.tell(section)
    clock.tell_of_jobs(section, [(facts.pool.name, facts.ahead) for facts in found if facts.ahead is not None])
    return report


def examine_pools(path: str, settings: Config, seconds: float = DEADLINE) -> Report:
    """The pools alone, as `karoo check --connect` wants it."""
    logging.getLogger("karoo").addHandler(logging.NullHandler())
    report = Report(path)
    _look(report, settings, list(settings.pools_by_path.items()), seconds)
    return report


def _network(report: Report, settings: Config, seconds: float) -> list[Facts]:
    """The DNS, then the pools; those that are this proxy itself are left alone."""
    known = names.names_of(settings)
    gevent.joinall([gevent.spawn(names.look, name, min(DNS_SECONDS, seconds)) for name in known])
    section = report.section("dns", "DNS")
    names.tell(section, known)
    by_host = {name.host.lower(): name for name in known}
    wanted = []
    for path, pool in settings.pools_by_path.items():
        back = names.leads_back(pool, by_host.get(pool.place.host.lower()), settings)
        if back:
            section.fail("dns.leads_back", path, f"{pool.name} is this proxy itself ({back}): shares would go round in "
                         "circles", "name the pool, or change the port", faulty=True, option=back)
        else:
            wanted.append((path, pool))
    return _look(report, settings, wanted, seconds)


def _look(report: Report, settings: Config, wanted: Sequence[tuple[str, config.Upstream]],
          seconds: float) -> list[Facts]:
    """All pools at once; a section for each, in their order."""
    looking = [gevent.spawn(pools.look, pool, seconds) for _, pool in wanted]
    found = []
    for (path, pool), greenlet in zip(wanted, looking, strict=True):
        facts = greenlet.get()
        section = report.section("pool", poolwords.title(pool, facts.user), path)
        poolwords.tell(section, facts, settings.shares.algorithm, settings.proxy.max_clients)
        found.append(facts)
    return found

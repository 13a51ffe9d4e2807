"""The whole examination, in its order: what is near first, then the pools, all at once and for a limited time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
    _tell(report, settings, _look(settings.pools_by_path, seconds))
    return report


def _network(report: Report, settings: Config, seconds: float) -> list[Facts]:
    """The DNS, then the pools; those that are this proxy itself are left alone."""
    known = names.names_of(settings)
    gevent.joinall([gevent.spawn(names.look, name, min(DNS_SECONDS, seconds)) for name in known])
    by_host = {name.host.lower(): name for name in known}
    back = {path: names.leads_back(pool, by_host.get(pool.place.host.lower()), settings)
            for path, pool in settings.pools_by_path.items()}
    found = _look({path: pool for path, pool in settings.pools_by_path.items() if not back[path]}, seconds)
    section = report.section("dns", "DNS")
    names.tell(section, known, poolwords.first_well(found.values()) is not None)
    for path, option in back.items():
        if option:
            name = settings.pools_by_path[path].name
            section.fail("dns.leads_back", path, f"{name} is this proxy itself ({option}): shares would go round in "
                         "circles", "name the pool, or change the port", faulty=True, option=option)
    _tell(report, settings, found)
    return list(found.values())


def _look(wanted: Mapping[str, config.Upstream], seconds: float) -> dict[str, Facts]:
    """All pools at once; what was seen of each, by its path and in their order."""
    looking = {path: gevent.spawn(pools.look, pool, seconds) for path, pool in wanted.items()}
    return {path: greenlet.get() for path, greenlet in looking.items()}


def _tell(report: Report, settings: Config, found: Mapping[str, Facts]) -> None:
    """A section for each pool."""
    well = poolwords.first_well(found.values())
    for path, facts in found.items():
        section = report.section("pool", poolwords.title(facts.pool, facts.user), path)
        poolwords.tell(section, facts, settings.shares.algorithm, settings.proxy.max_clients, well)

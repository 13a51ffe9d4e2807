"""Reading the configuration again while the proxy runs: what can change at once does, the rest is named."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from gevent.lock import BoundedSemaphore

from karoo import config
from karoo import log as logs
from karoo.config import Config, Listener, Tls
from karoo.configfile import require_file
from karoo.configschema import Option, walk
from karoo.net.tls import TlsError
from karoo.proxy.proxy import Proxy
from karoo.proxy.waysin import Security, check_pools, securities
from karoo.timeline import WARNING
from karoo.units import counted

log = logging.getLogger("karoo")

SECRET, NOTHING = "(secret)", "nothing"
MOST_SHOWN = 5  # values of a list
LONGEST_SHOWN = 200  # characters of a value
_ITEM = re.compile(r"\w+\[\d+\]")


class NoReload(RuntimeError):
    """The file cannot be taken over; the text says why. Nothing was changed."""


class Reloader:
    """Takes over what changed in a configuration file (None: the settings came from no file)."""

    def __init__(self, proxy: Proxy, path: str | None) -> None:
        self._proxy, self._path = proxy, path
        self._one_at_a_time = BoundedSemaphore()

    def __call__(self, by: str = "") -> dict[str, Any]:
        """Read the file, whole, and all certificates, and open the log file; the options that changed and are in force
        now, and those that wait for a restart. Raises NoReload with every fault of the file."""
        if self._path is None:
            raise NoReload("this proxy was started without a configuration file")
        with self._one_at_a_time:
            return self._reload(self._path, by)

    def _reload(self, path: str, by: str) -> dict[str, Any]:
        try:
            require_file(path)
            new = config.load(path)
        except config.ConfigError as faults:
            self._refuse(f"it is faulty: {faults}", "the file is faulty", by)
            raise NoReload(str(faults)) from None
        former = self._proxy.settings
        merged, held_back = without_clash(former, live(former, new))
        try:
            certificates = self._certificates(merged, new)
            check_pools(new)
            to_new_log = logs.prepare(merged.log) if merged.log != former.log else None  # last: it may make a file
        except TlsError as fault:
            self._refuse(f"a certificate cannot be used: {fault}", f"a certificate cannot be used: {fault}", by)
            raise NoReload(str(fault)) from None
        except logs.LogFileError as failure:
            self._refuse(f"log.file: {failure}", f"log.file: {failure}", by)
            raise NoReload(f"log.file: {failure}") from None
        renewed = self._renewed(merged, certificates)
        self._proxy.apply(merged, certificates)
        changed = self._tell(differences(former, merged), "")
        for sentence in held_back:
            log.warning("%s", sentence)
        waiting = self._tell(differences(merged, new), ", after a restart")
        found = self._tell(renewed, "")
        if to_new_log is not None:
            to_new_log()
        text = (f"The configuration was read again: {counted(len(changed), 'option')} changed, "
                f"{len(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for a restart")
        if renewed:
            text += f"; {counted(len(renewed), 'file')} of certificates renewed"
        log.warning("%s: %s", by or "the operator", text)
        self._proxy.metrics.timeline.note("reload", text, by=by)
        return {"changed": changed + found, "needs_restart": waiting}

    def _certificates(self, merged: Config, new: Config) -> list[Security]:
        """The TLS of each listener that is there, for settings that come from a file. All that the file names is read,
        also for listeners that wait for a restart, which a faulty one would keep the proxy from. A listener that is
        there until the restart only keeps what it has: its files may be gone. Raises TlsError."""
        read = {way.tls: security for way, security in zip(new.ways_in, securities(new), strict=True)}
        return [read.get(way.tls, entrance.security)
                for way, entrance in zip(merged.ways_in, self._proxy.entrances, strict=True)]

    def _renewed(self, merged: Config, certificates: list[Security]) -> list[tuple[str, str]]:
        """Files that hold other certificates than before under the name that they had, as `differences` tells them."""
        found = []
        ways = zip(merged.ways_by_path.items(), self._proxy.entrances, certificates, strict=True)
        for (path, way), entrance, security in ways:
            if way.tls != entrance.settings.tls or security.expires is None:
                continue
            before, until = entrance.security, time.strftime("%Y-%m-%d %H:%M", time.localtime(security.expires))
            if security.shown != before.shown:
                found.append((f"{path}.tls.cert_file (renewed)", f"{way.tls.cert_file} is valid until {until}"))
            if security.authorities != before.authorities:
                found.append((f"{path}.tls.client_ca_file (renewed)", way.tls.client_ca_file))
        return found

    def _tell(self, found: Iterable[tuple[str, str]], when: str) -> list[str]:
        """Log some differences; their paths."""
        paths = []
        for path, sentence in found:
            log.warning("%s: %s%s", path, sentence, when)
            paths.append(path)
        return paths

    def _refuse(self, why: str, short: str, by: str) -> None:
        """`why` may have several lines."""
        headline, *more = why.split("\n")
        log.error("%s asked for the configuration to be read again, but %s", by or "the operator", headline)
        for line in more:
            log.error("%s", line)
        self._proxy.metrics.timeline.note("reload", f"The configuration was not read again: {short}", WARNING, by=by)


def live(old: Config, new: Config) -> Config:
    """The new settings as far as they count without a restart, the old ones where they do not: addresses, what is
    spoken there, how shares are checked, where the accounts are kept and commands come in."""
    replace, left = dataclasses.replace, list(new.listeners)
    return replace(
        new,
        proxy=replace(new.proxy, listen=old.proxy.listen, tls=_live_tls(old.proxy.tls, new.proxy.tls)),
        listeners=tuple(_live_listener(way, left) for way in old.listeners),
        http=replace(new.http, listen=old.http.listen, pprof=old.http.pprof),
        shares=old.shares, compat=replace(new.compat, strict_broadcast=old.compat.strict_broadcast),
        accounting=replace(new.accounting, database=old.accounting.database), control=old.control)


def _live_listener(old: Listener, left: list[Listener]) -> Listener:
    """A listener with what is said of its address now, which is taken out of what is left."""
    for one in left:
        if (one.address, one.protocol, one.dual_stack) == (old.address, old.protocol, old.dual_stack):
            left.remove(one)
            return dataclasses.replace(one, tls=_live_tls(old.tls, one.tls))
    return old


def _live_tls(old: Tls, new: Tls) -> Tls:
    return new if new.enabled == old.enabled else old


def without_clash(old: Config, merged: Config) -> tuple[Config, list[str]]:
    """Settings out of two files as `live` gives them, which may contradict each other although neither file does
    (`shares.algorithm: none` stays, and vardiff is switched on): of what would, the section that could change at once
    stays as it was, to change with the rest at the restart. And a sentence on each section that does so."""
    sentences = []
    for section, signs in (("vardiff", ("vardiff.", ".profile.")), ("listeners", ("listeners[",))):
        for names, _ in merged.contradictions(_given(merged)):
            if any(sign in name for name in names for sign in signs):
                merged = dataclasses.replace(merged, **{section: getattr(old, section)})
                others = [name for name in names if not name.startswith(section)] or names
                sentences.append(f"{section}: all changes wait for a restart, as with what is in force until then "
                                 f"({', '.join(others)}) they would be a contradiction")
                break
    return merged, sentences


def _given(merged: Config) -> set[str]:
    """The paths that merged settings set, as far as contradictions between sections depend on them: pools are those of
    the new file, listeners of either."""
    profiles = {f"{path}.profile.{name}" for path, way in merged.ways_by_path.items()
                for name in ("start_diff", "min_diff", "max_diff") if getattr(way.profile, name) is not None}
    return profiles | {path for path in merged.given if path.startswith(("upstream.", "backups["))}


def differences(old: Config, new: Config) -> list[tuple[str, str]]:
    """(path, what is there instead of what) of each option that differs; secrets are masked. A pool or a listener that
    only one of the two has is a single difference, and is told by the options that are not their defaults."""
    before, after = _by_place(old), _by_place(new)
    found = []
    for place in sorted(before | after):
        if place not in before or place not in after:
            was, now = (_row(rows.get(place)) for rows in (before, after))
            found.append((place, f"{now} instead of {was}"))
            continue
        for (path, each, value), (_, _, other) in zip(before[place], after[place], strict=True):
            if value != other:
                found.append((path, _change(each, value, other)))
    return sorted(found)


_Row = list[tuple[str, Option, Any]]


def _by_place(settings: Config) -> dict[str, _Row]:
    """All options, by the item of a list that they belong to, such as `backups[1]`, or for others by their path."""
    found: dict[str, _Row] = {}
    for path, each, value in walk(settings):
        item = _ITEM.match(path)
        found.setdefault(item.group() if item else path, []).append((path, each, value))
    return found


def _row(options: _Row | None) -> str:
    """An item of a list in words."""
    if options is None:
        return NOTHING
    return "{" + ", ".join(f"{path.partition('.')[2]}: {_shown(each, value)}" for path, each, value in options
                           if each.required or value != each.default) + "}"


def _change(each: Option, old: Any, new: Any) -> str:
    """What became of an option. Of a list, what came and what went."""
    if not (isinstance(old, tuple) and isinstance(new, tuple)) or each.secret:
        return f"{_shown(each, new)} instead of {_shown(each, old)}"
    came, went = ([one for one in there if one not in others] for there, others in ((new, set(old)), (old, set(new))))
    return ", ".join([f"now with {_some(came)}"] * bool(came) + [f"no longer with {_some(went)}"] * bool(went)
                     ) or "in another order"


def _shown(each: Option, value: Any) -> str:
    if each.secret:
        return SECRET if value else NOTHING
    if isinstance(value, tuple):
        return f"[{_some(value)}]"
    return NOTHING if value is None else _short(value)


def _some(values: Sequence[Any]) -> str:
    more = len(values) - MOST_SHOWN
    return ", ".join(map(_short, values[:MOST_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"

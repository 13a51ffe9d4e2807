"""Reading the configuration again while the proxy runs: what can change at once does, the rest is named."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

from gevent.lock import BoundedSemaphore

from karoo import config
from karoo import log as logs
from karoo.config import Config, Listener, Tls
from karoo.configfile import require_file
from karoo.configschema import walk
from karoo.net.tls import TlsError
from karoo.proxy.proxy import Proxy
from karoo.proxy.waysin import Security, check_pools, securities
from karoo.timeline import WARNING

log = logging.getLogger("karoo")

SECRET = "(secret)"


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
            self._refuse(f"it is faulty:\n{faults}", "the file is faulty", by)
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
        self._proxy.apply(merged, certificates)
        changed = self._tell(differences(former, merged), "")
        for sentence in held_back:
            log.warning("%s", sentence)
        waiting = self._tell(differences(merged, new), ", after a restart")
        if to_new_log is not None:
            to_new_log()
        text = (f"The configuration was read again: {len(changed)} options changed, "
                f"{len(waiting)} wait for a restart")
        log.warning("%s: %s", by or "the operator", text)
        self._proxy.metrics.timeline.note("reload", text, by=by)
        return {"changed": changed, "needs_restart": waiting}

    def _certificates(self, merged: Config, new: Config) -> list[Security]:
        """The TLS of each listener that is there, for settings that come from a file. All that the file names is read,
        also for listeners that wait for a restart, which a faulty one would keep the proxy from. A listener that is
        there until the restart only keeps what it has: its files may be gone. Raises TlsError."""
        read = {way.tls: security for way, security in zip(new.ways_in, securities(new), strict=True)}
        return [read.get(way.tls, entrance.security)
                for way, entrance in zip(merged.ways_in, self._proxy.entrances, strict=True)]

    def _tell(self, found: Iterable[tuple[str, str, str]], when: str) -> list[str]:
        """Log some differences; their paths."""
        paths = []
        for path, old, new in found:
            log.warning("%s: %s instead of %s%s", path, new, old, when)
            paths.append(path)
        return paths

    def _refuse(self, why: str, short: str, by: str) -> None:
        log.error("%s asked for the configuration to be read again, but %s", by or "the operator", why)
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


def differences(old: Config, new: Config) -> list[tuple[str, str, str]]:
    """(path, old value, new value) of each option that differs, as texts; secrets are masked."""
    before = {path: (each, value) for path, each, value in walk(old)}
    after = {path: (each, value) for path, each, value in walk(new)}
    found = []
    for path in sorted(before | after):
        each, _ = before.get(path) or after[path]
        values = [table[path][1] if path in table else None for table in (before, after)]
        if values[0] != values[1]:
            texts = [SECRET if each.secret else "nothing" if value is None else repr(value) for value in values]
            found.append((path, texts[0], texts[1]))
    return found

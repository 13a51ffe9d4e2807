"""Reading the configuration again while the proxy runs: what can change at once does, the rest is named."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from karoo import config
from karoo import log as logs
from karoo.config import Config
from karoo.configschema import walk
from karoo.net.tls import TlsError
from karoo.proxy.proxy import Proxy
from karoo.timeline import WARNING

log = logging.getLogger("karoo")

SECRET = "(secret)"


class NoReload(RuntimeError):
    """The file cannot be taken over; the text says why. Nothing was changed."""


class Reloader:
    """Takes over what changed in a configuration file (None: the settings came from no file)."""

    # What is in force at once: options, or sections as a whole.
    LIVE = ("ratelimit", "log.level")

    def __init__(self, proxy: Proxy, path: str | None) -> None:
        self._proxy, self._path = proxy, path

    def __call__(self, by: str = "") -> dict[str, Any]:
        """Read the file, whole, and the listeners' certificates; the options that changed and are in force now, and
        those that wait for a restart. Raises NoReload with every fault of the file."""
        if self._path is None:
            raise NoReload("this proxy was started without a configuration file")
        try:
            new = config.load(self._path)
        except config.ConfigError as faults:
            self._refuse(f"it is faulty:\n{faults}", "the file is faulty", by)
            raise NoReload(str(faults)) from None
        former = self._proxy.settings
        self._apply(new, by)
        changed: dict[str, list[str]] = {"changed": [], "needs_restart": []}
        for path, old_text, new_text in differences(former, new):
            live = any(path == one or path.startswith(f"{one}.") for one in self.LIVE)
            changed["changed" if live else "needs_restart"].append(path)
            log.warning("%s: %s instead of %s%s", path, new_text, old_text, "" if live else ", after a restart")
        text = (f"The configuration was read again: {len(changed['changed'])} options changed, "
                f"{len(changed['needs_restart'])} wait for a restart")
        log.warning("%s: %s", by or "the operator", text)
        self._proxy.metrics.timeline.note("reload", text, by=by)
        return changed


    def _apply(self, new: Config, by: str) -> None:
        """Raises NoReload."""
        former = self._proxy.settings.log
        try:
            self._proxy.apply(dataclasses.replace(new, log=dataclasses.replace(former, level=new.log.level)))
        except TlsError as fault:
            self._refuse(f"a certificate cannot be used: {fault}", f"a certificate cannot be used: {fault}", by)
            raise NoReload(str(fault)) from None
        if new.log.level != former.level:
            logs.setup(new.log.level, former.format)

    def _refuse(self, why: str, short: str, by: str) -> None:
        log.error("%s asked for the configuration to be read again, but %s", by or "the operator", why)
        self._proxy.metrics.timeline.note("reload", f"The configuration was not read again: {short}", WARNING, by=by)


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

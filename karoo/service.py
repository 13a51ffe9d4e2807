"""The daemon: the proxy and its status page, from start to signal."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import gevent
from flask import Flask
from gevent.event import Event

from karoo import __version__, config, descriptors, units
from karoo import log as logs
from karoo.ctl.server import ControlServer
from karoo.ctl.socketfile import ControlError
from karoo.hubwatch import HubWatch
from karoo.proxy.proxy import Proxy
from karoo.proxy.waysin import open_socket
from karoo.reload import NoReload, Reloader
from karoo.systemd import Activation, Notifier
from karoo.web.access import exposure
from karoo.web.app import create_app
from karoo.web.live import Live
from karoo.web.server import WebServer
from karoo.web.status import Status

log = logging.getLogger("karoo")

LEAST_WATCHDOG = 5.0  # seconds, for a busy machine to keep
EX_SOFTWARE = 70  # it cannot go on, and is to be started anew


class Service:
    """Proxy, web server and control socket, started and stopped together, what systemd is told of them, and the watch
    over the loop. `path` is the file that the settings came from (None: from none). Raises ListenError when an address
    cannot be had, ActivationError when a socket of systemd's cannot, TlsError when a certificate cannot be used."""

    def __init__(self, settings: config.Config, path: str | None = None) -> None:
        self._activation, self._notifier = Activation(), Notifier()
        self.proxy = Proxy(settings, self._activation.take, self._tell_systemd)
        self._reloader = Reloader(self.proxy, path)
        self._stopping = False
        self.web: WebServer | None = None
        self.live: Live | None = None
        if settings.http.listen:
            app, self.live = web_of(self.proxy, self.reload)
            try:
                self.web = WebServer(open_socket(settings.http.listen, self._activation.take), app)
            except Exception:
                self.proxy.stop()
                raise
        self._control = self._control_server(settings.control)
        self._watch = HubWatch()
        seconds = self._notifier.watchdog_seconds
        if seconds is not None and seconds < LEAST_WATCHDOG:
            log.warning("systemd wants a sign of life every %g s, and there is one a second at most: set WatchdogSec "
                        "to %g or more", seconds, LEAST_WATCHDOG)
        for name in self._activation.unused():
            log.warning("systemd passed a socket named %s that no listener takes (address: systemd:%s): who connects "
                        "there waits for ever", name, name)

    def _control_server(self, control: config.Control) -> ControlServer | None:
        """Where `karoo ctl` may come in; without it the proxy does its work as well."""
        if not control.socket:
            return None
        try:
            return ControlServer(control.socket, control.mode, self.proxy, self.reload)
        except ControlError as failure:
            log.warning("there will be no karoo ctl: %s", failure)
            return None

    def warn(self, former: config.Config | None = None) -> None:
        """Log what is to be warned of in the settings, except for what was so in the former ones."""
        host = self.web.host if self.web is not None else None
        known = [] if former is None else warnings(former, host)
        for sentence in warnings(self.proxy.settings, host):
            if sentence not in known:
                log.warning("%s", sentence)

    def start(self) -> None:
        if self.web is not None:
            self.web.start()
        self.proxy.start()
        if self._control is not None:
            self._control.start()
        self._watch.start(self.proxy.settings.log.watchdog_ms)
        self._notifier.ready()
        self._tell_systemd()

    def reload(self, by: str) -> dict[str, Any]:
        """Read the configuration again; see `Reloader`. Raises NoReload, also where the proxy is about to end: systemd
        must not hear that it is ready after it has heard that it stops."""
        if self._stopping:
            log.warning("%s: the configuration is not read again, as the proxy stops", by or "the operator")
            raise NoReload("the proxy stops")
        self._notifier.reloading()
        former = self.proxy.settings
        try:
            changed = self._reloader(by)
        finally:
            if not self._stopping:
                self._notifier.ready()
        settings = self.proxy.settings
        self.warn(former)
        if settings.log.watchdog_ms != former.log.watchdog_ms:
            self._watch.start(settings.log.watchdog_ms)
        if self.web is not None and (settings.http, settings.metrics) != (former.http, former.metrics):
            self.web.use(web_of(self.proxy, self.reload, self.live)[0])
            if self.live is not None and settings.http != former.http:
                self.live.restart()  # whoever has a page open needs the new token
        return changed

    def _tell_systemd(self) -> None:
        """That the proxy is alive, and what it does; each second."""
        self._notifier.watchdog()  # also where systemd does not watch: what could not be told before is told then
        if self._notifier.active:
            miners = len(self.proxy.sessions)
            self._notifier.status(f"{units.counted(miners, 'miner')}; {self.proxy.view.not_ready() or 'ready'}")

    def drain(self, give_up: Event) -> None:
        """See `Proxy.drain`."""
        self._stopping = True
        self._notifier.stopping()
        self._notifier.status("stopping, when the pool has answered all shares")
        self.proxy.drain(give_up)

    def stop(self) -> None:
        self._stopping = True
        self._notifier.stopping()
        self._notifier.status("stopping")
        self._watch.stop()
        if self._control is not None:
            self._control.stop()
        self.proxy.stop()
        if self.web is not None and self.live is not None:
            self.live.stop()
            self.web.stop()


def web_of(proxy: Proxy, reload: Callable[[str], dict[str, Any]], live: Live | None = None) -> tuple[Flask, Live]:
    """The web application over a proxy as it is configured now; `reload` reads its configuration again, told who asked.
    `live` is what keeps open pages up to date, where there is one already."""
    status = Status(proxy.snapshot, proxy.session_snapshots, proxy.worker_snapshots, lambda: proxy.settings)
    return create_app(proxy.view, proxy.control, status, proxy.settings, reload, live)


def warnings(settings: config.Config, host: str | None) -> list[str]:
    """A sentence on each thing in the settings that is hardly meant so. `host` is where the status page listens; None
    for nowhere."""
    found = config.remarks(settings)
    for way in settings.ways_in:
        if any(text.endswith("/0") for text in way.proxy_protocol):
            found.append(f"proxy_protocol of the listener on {way.address} trusts everybody, so that anybody may claim "
                         "any address: name the balancers' own addresses")
    for pool in settings.pools:
        if pool.insecure_skip_verify and pool.place.tls:
            found.append(f"insecure_skip_verify: any certificate is taken for {pool.name}'s, so that anybody on the "
                         "way can take the shares: set fingerprint or ca_file instead")
    room, wanted = descriptors.room(), settings.proxy.max_clients
    if room is not None and room < wanted:
        found.append(f"the limit of open files leaves room for {room} miners, not the {wanted} of proxy.max_clients: "
                     "raise it (ulimit -n, or LimitNOFILE of systemd) or lower max_clients")
    if host is not None and (exposed := exposure(settings.http, host)):
        found.append(exposed)
    return found


def run(settings: config.Config, path: str) -> int:
    """Run until SIGTERM or SIGINT, with the settings of a file; the exit code. Raises what `Service` does, and
    LogFileError."""
    logs.setup_from(settings.log)
    log.info("karoo %s starts", __version__)
    descriptors.raise_limit()
    service = Service(settings, path)
    log.info("shares are hashed %s", service.proxy.speed.kind)
    service.warn()
    end = Ending(service.proxy)
    service.start()
    gevent.signal_handler(signal.SIGHUP, _reload, service)
    gevent.signal_handler(signal.SIGUSR1, logs.reopen)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))  # see __main__
    end.begun.wait()
    log.info("stopping")
    service.drain(end.at_once)
    service.stop()
    service.proxy.report()
    return EX_SOFTWARE if service.proxy.gave_up.is_set() else 0


class Ending:
    """When the process is to end: a first SIGTERM or SIGINT, or a proxy that cannot go on. A second signal ends the
    wait for shares that are under way, and a third one the process as it is."""

    def __init__(self, proxy: Proxy) -> None:
        self.begun, self.at_once = Event(), Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._signalled, number)
        proxy.gave_up.rawlink(lambda _: self.begun.set())

    def _signalled(self, number: int) -> None:
        if self.at_once.is_set():
            os._exit(128 + number)
        if self.begun.is_set():
            log.warning("stopping at once")
            self.at_once.set()
        self.begun.set()


def _reload(service: Service) -> None:
    try:
        service.reload("SIGHUP")
    except NoReload:
        pass  # why is in the log
    except Exception:
        service.proxy.metrics.exceptions += 1
        log.exception("a bug met the configuration as it was read again")


def on_end_signals() -> Event:
    """An event that SIGTERM and SIGINT set."""
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    return ended

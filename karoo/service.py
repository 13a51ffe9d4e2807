"""The daemon: the proxy and its status page, from start to signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

import gevent
from flask import Flask
from gevent.event import Event

from karoo import __version__, config, descriptors
from karoo import log as logs
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


class Service:
    """Proxy and web server, started and stopped together, and what systemd is told of them. `path` is the file that the
    settings came from (None: from none). Raises ListenError when an address cannot be had, ActivationError when a
    socket of systemd's cannot, TlsError when a certificate cannot be used."""

    def __init__(self, settings: config.Config, path: str | None = None) -> None:
        self._activation, self._notifier = Activation(), Notifier()
        self.proxy = Proxy(settings, self._activation.take, self._tell_systemd)
        self._reloader = Reloader(self.proxy, path)
        self.web: WebServer | None = None
        self.live: Live | None = None
        if settings.http.listen:
            app, self.live = web_of(self.proxy, self.reload)
            try:
                self.web = WebServer(open_socket(settings.http.listen, self._activation.take), app)
            except Exception:
                self.proxy.stop()
                raise
        for name in self._activation.unused():
            log.warning("systemd passed a socket named %s that no listener takes (address: systemd:%s): who connects "
                        "there waits for ever", name, name)

    def warn_of_room(self) -> None:
        """Say so when fewer miners fit than the configuration means to."""
        room, wanted = self.proxy.door.room, self.proxy.settings.proxy.max_clients
        if room < wanted:
            log.warning("the limit of open files leaves room for %d miners, not the %d of proxy.max_clients: raise it "
                        "(ulimit -n, or LimitNOFILE of systemd) or lower max_clients", room, wanted)

    def start(self) -> None:
        if self.web is not None:
            self.web.start()
        self.proxy.start()
        self._notifier.ready()
        self._tell_systemd()

    def reload(self, by: str) -> dict[str, Any]:
        """Read the configuration again; see `Reloader`. Raises NoReload."""
        self._notifier.reloading()
        try:
            return self._reloader(by)
        finally:
            self._notifier.ready()

    def _tell_systemd(self) -> None:
        """That the proxy is alive, and what it does; each second."""
        self._notifier.watchdog()  # also where systemd does not watch: what could not be told before is told then
        if self._notifier.active:
            miners = len(self.proxy.sessions)
            self._notifier.status(f"{miners} miner{'s' * (miners != 1)}; {self.proxy.view.not_ready() or 'ready'}")

    def stop(self) -> None:
        self._notifier.stopping()
        self._notifier.status("stopping")
        self.proxy.stop()
        if self.web is not None and self.live is not None:
            self.live.stop()
            self.web.stop()


def web_of(proxy: Proxy, reload: Callable[[str], dict[str, Any]]) -> tuple[Flask, Live]:
    """The web application over a proxy; `reload` reads its configuration again, told who asked."""
    status = Status(proxy.snapshot, proxy.session_snapshots, proxy.worker_snapshots, proxy.settings)
    return create_app(proxy.view, proxy.control, status, proxy.settings, reload)


def run(settings: config.Config, path: str) -> int:
    """Run until SIGTERM or SIGINT, with the settings of a file; the exit code."""
    logs.setup(settings.log.level, settings.log.format)
    log.info("karoo %s starts", __version__)
    for sentence in config.without_effect(settings):
        log.warning("%s", sentence)
    for pool in settings.pools:
        if pool.insecure_skip_verify and pool.place.tls:
            log.warning("insecure_skip_verify: any certificate is taken for %s's, so that anybody on the way can take "
                        "the shares: set fingerprint or ca_file instead", pool.name)
    descriptors.raise_limit()
    service = Service(settings, path)
    log.info("shares are hashed %s", service.proxy.speed.kind)
    service.warn_of_room()
    if service.web is not None and (exposed := exposure(settings.http, service.web.host)):
        log.warning("%s", exposed)
    ended = on_end_signals()
    gevent.signal_handler(signal.SIGHUP, _reload, service)
    service.start()
    ended.wait()
    log.info("stopping")
    service.stop()
    service.proxy.report()
    return 0


def _reload(service: Service) -> None:
    try:
        service.reload("SIGHUP")
    except NoReload:
        pass  # why is in the log


def on_end_signals() -> Event:
    """An event that SIGTERM and SIGINT set."""
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    return ended

"""The daemon: the proxy and its status page, from start to signal."""

from __future__ import annotations

import logging
import signal

import gevent
from flask import Flask
from gevent.event import Event

from karoo import __version__, config, descriptors
from karoo import log as logs
from karoo.proxy.proxy import Proxy
from karoo.reload import Reloader
from karoo.web.access import exposure
from karoo.web.app import create_app
from karoo.web.live import Live
from karoo.web.server import WebServer
from karoo.web.status import Status

log = logging.getLogger("karoo")


class Service:
    """Proxy and web server, started and stopped together. Raises ListenError when an address cannot be had."""

    def __init__(self, settings: config.Config, path: str | None = None) -> None:
        self.proxy = Proxy(settings)
        self.web: WebServer | None = None
        self.live: Live | None = None
        if settings.http.listen:
            host, port = config.parse_address(settings.http.listen)
            app, self.live = web_of(self.proxy, path)
            try:
                self.web = WebServer(host, port, app)
            except Exception:
                self.proxy.stop()
                raise

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

    def stop(self) -> None:
        self.proxy.stop()
        if self.web is not None and self.live is not None:
            self.live.stop()
            self.web.stop()


def web_of(proxy: Proxy, path: str | None = None) -> tuple[Flask, Live]:
    """The web application over a proxy whose settings came from a file (None: from none)."""
    status = Status(proxy.snapshot, proxy.session_snapshots, proxy.worker_snapshots, proxy.settings)
    return create_app(proxy.view, proxy.control, status, proxy.settings, Reloader(proxy, path))


def run(settings: config.Config, path: str) -> int:
    """Run until SIGTERM or SIGINT, with the settings of a file; the exit code."""
    logs.setup(settings.log.level, settings.log.format)
    log.info("karoo %s starts", __version__)
    for sentence in config.without_effect(settings):
        log.warning("%s", sentence)
    if exposed := exposure(settings.http):
        log.warning("%s", exposed)
    descriptors.raise_limit()
    service = Service(settings, path)
    log.info("shares are hashed %s", service.proxy.speed.kind)
    service.warn_of_room()
    ended = on_end_signals()
    service.start()
    ended.wait()
    log.info("stopping")
    service.stop()
    service.proxy.report()
    return 0


def on_end_signals() -> Event:
    """An event that SIGTERM and SIGINT set."""
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, ended.set)
    return ended

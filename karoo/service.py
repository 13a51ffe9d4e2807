"""The daemon: the proxy and its status page, from start to signal."""

from __future__ import annotations

import logging
import signal

import gevent
from gevent.event import Event

from karoo import __version__, config, descriptors
from karoo import log as logs
from karoo.proxy.proxy import Proxy
from karoo.web.app import Status, WebServer, create_app

log = logging.getLogger("karoo")


class Service:
    """Proxy and web server, started and stopped together. Raises ListenError when an address cannot be had."""

    def __init__(self, settings: config.Config) -> None:
        self.proxy = Proxy(settings)
        self.web: WebServer | None = None
        if settings.http.listen:
            host, port = config.parse_address(settings.http.listen)
            status = Status(self.proxy.snapshot, self.proxy.session_snapshots, self.proxy.worker_snapshots, settings)
            try:
                self.web = WebServer(host, port, create_app(status, debug_page=settings.http.pprof))
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
        if self.web is not None:
            self.web.stop()


def run(settings: config.Config) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    logs.setup(settings.log.level, settings.log.format)
    log.info("karoo %s starts", __version__)
    for sentence in config.without_effect(settings):
        log.warning("%s", sentence)
    descriptors.raise_limit()
    service = Service(settings)
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

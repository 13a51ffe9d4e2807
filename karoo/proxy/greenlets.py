"""The greenlets that the proxy owns: none of them dies unseen."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from karoo.metrics import Metrics

log = logging.getLogger("karoo.proxy")

RESTART_AFTER = 1.0  # seconds until a greenlet that a bug ended is started again


class Greenlets:
    """Starts them, notices their death, ends them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._kept: list[gevent.Greenlet] = []

    def keep(self, work: Callable[[], None], name: str) -> None:
        """Run something for as long as the proxy lives: a bug in it is logged and counted, and it starts again."""
        def supervise() -> None:
            while True:
                self._attempt(work, name)
                gevent.sleep(RESTART_AFTER)
        self._kept.append(gevent.spawn(supervise))

    def run(self, work: Callable[[], None], name: str) -> None:
        """Run something once, beside whoever asks; a bug in it is logged and counted."""
        gevent.spawn(self._attempt, work, name)

    def _attempt(self, work: Callable[[], None], name: str) -> None:
        try:
            work()
        except Exception:
            self._metrics.exceptions += 1
            log.exception("a bug ended %s", name)

    def end(self) -> None:
        """End those that are kept."""
        gevent.killall(self._kept)

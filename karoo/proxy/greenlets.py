"""The greenlets that the proxy owns: none of them dies unseen, and where one cannot be kept alive the process ends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

import gevent

from karoo.metrics import Metrics

log = logging.getLogger("karoo.proxy")

RESTART_AFTER = 1.0  # seconds until a greenlet that a bug ended is started again
MOST_DEATHS, WITHIN = 20, 60.0  # of one, in so many seconds: more, and it does not do what it is for


class Greenlets:
    """Starts them, notices their death, ends them. `give_up` is told why the proxy cannot go on."""

    def __init__(self, metrics: Metrics, give_up: Callable[[str], None]) -> None:
        self._metrics, self._give_up = metrics, give_up
        self._kept: list[gevent.Greenlet] = []
        self._ending = False

    def keep(self, work: Callable[[], None], name: str) -> None:
        """Run something for as long as the proxy lives: a bug in it is logged and counted, and it starts again."""
        def supervise() -> None:
            deaths: deque[float] = deque(maxlen=MOST_DEATHS)
            while len(deaths) < MOST_DEATHS or monotonic() - deaths[0] > WITHIN:
                self._attempt(work, name)
                deaths.append(monotonic())
                gevent.sleep(RESTART_AFTER)
            self._give_up(f"bugs ended {name} {MOST_DEATHS} times within {monotonic() - deaths[0]:.0f} s")

        def died(greenlet: gevent.Greenlet) -> None:
            # By something that is no Exception. GreenletExit is a success to gevent, and its value.
            why = greenlet.exception or greenlet.value
            if not self._ending and why is not None:
                self._give_up(f"{name} has died: {why!r}")
        greenlet = gevent.spawn(supervise)
        greenlet.link(died)
        self._kept.append(greenlet)

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
        self._ending = True
        gevent.killall(self._kept)

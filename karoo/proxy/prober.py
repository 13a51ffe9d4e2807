"""Looks, while miners are on a backup pool, whether a better one is well again, and moves them back to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic

import gevent

from karoo import config, units
from karoo.metrics import Metrics
from karoo.policy.failover import PoolOrder
from karoo.proxy.events import Unheard
from karoo.proxy.greenlets import Greenlets
from karoo.proxy.keeper import Keeper
from karoo.proxy.lost import UpstreamError
from karoo.proxy.upstream import Upstream

log = logging.getLogger("karoo.upstream")

LOOK_EVERY = 1.0  # seconds


class Prober:
    """One connection at a time to a better pool: a full handshake, a job, and some time of health."""

    def __init__(self, pools: list[config.Upstream], keepers: Sequence[Keeper], order: PoolOrder, metrics: Metrics,
                 greenlets: Greenlets) -> None:
        self._pools, self._keepers, self._order, self._metrics = pools, keepers, order, metrics
        self._greenlets = greenlets
        self._upstream: Upstream | None = None

    def run(self) -> None:
        """For ever."""
        while True:
            gevent.sleep(LOOK_EVERY)
            worst = max((keeper.index for keeper in self._keepers if keeper.route.is_up), default=0)
            index = self._order.better(worst, monotonic())
            if index is not None and self._is_well(index):
                for keeper in self._keepers:
                    if keeper.route.is_up and keeper.index > index:
                        log.info("%s is well again: pool connection %d goes back to it", self._pools[index].name,
                                 keeper.route.number + 1)
                        self._greenlets.run(_move(keeper, index), "the way back to a better pool")

    def postpone(self, index: int, until: float) -> None:
        """A pool was found down: no look at it before then, monotonic seconds."""
        self._order.postpone(index, until)

    def _is_well(self, index: int) -> bool:
        """Whether a pool stands a full handshake, a job, and the time that it is to be well."""
        pool = self._pools[index]
        upstream = self._upstream = Upstream(pool, Unheard(), self._metrics)
        health = gevent.Timeout(None)
        try:
            upstream.open()
            log.info("%s is up again; it is watched for %s", upstream, units.duration(pool.failback_after_seconds))
            health = gevent.Timeout.start_new(pool.failback_after_seconds)
            upstream.relay()
        except gevent.Timeout as over:
            if over is not health:
                raise
            self._order.succeeded(index)
            return True
        except UpstreamError as failure:
            wait = self._order.failed(index, monotonic(), failure.sick)
            log.info("%s is not well yet: %s; next look in %s", upstream, failure, units.duration(wait))
        finally:
            health.cancel()
            self._upstream = None
            upstream.close()
        return False

    def sweep(self, now: float) -> None:
        """Once a second: the deadlines of the connection that is watched."""
        if self._upstream is not None:
            self._upstream.sweep(now)


def _move(keeper: Keeper, index: int) -> Callable[[], None]:
    return lambda: keeper.move(index)

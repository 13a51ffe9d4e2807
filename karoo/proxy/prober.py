"""Looks, while miners are on a backup pool, whether a better one is well again, and moves them back to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic, time

import gevent

from karoo import config, units
from karoo.metrics import Metrics
from karoo.policy.failover import PoolOrder
from karoo.proxy.events import Unheard
from karoo.proxy.greenlets import Greenlets
from karoo.proxy.keeper import Keeper
from karoo.proxy.lost import Replaced, Stuck, UpstreamError
from karoo.proxy.upstream import Upstream
from karoo.stratum.methods import Notify

log = logging.getLogger("karoo.upstream")

LOOK_EVERY = 1.0  # seconds


class Prober:
    """One connection at a time to a better pool: a full handshake, a job, and some time of health."""

    def __init__(self, pools: list[config.Upstream], keepers: Sequence[Keeper], order: PoolOrder, metrics: Metrics,
                 greenlets: Greenlets) -> None:
        self._pools, self._keepers, self._order, self._metrics = pools, keepers, order, metrics
        self._greenlets = greenlets
        self._upstream: Upstream | None = None
        self._stuck: dict[int, bytes] = {}  # pools that sent no new work, and the block that their last job built on

    def run(self) -> None:
        """For ever."""
        while True:
            gevent.sleep(LOOK_EVERY)
            used = [keeper.index for keeper in self._keepers if keeper.route.is_up]
            worst = max(used, default=0, key=self._order.rank)
            index = self._order.better(worst, monotonic())
            if index is not None and self._is_well(index):
                for keeper in self._keepers:
                    if keeper.route.is_up and self._order.rank(keeper.index) > self._order.rank(index):
                        log.info("%s is well again: pool connection %d goes back to it", self._pools[index].name,
                                 keeper.route.number + 1)
                        self._greenlets.run(_move(keeper, index), "the way back to a better pool")

    def change(self, pools: list[config.Upstream], order: PoolOrder) -> None:
        """Other pools are configured: what was found out of the former ones counts no more."""
        self._pools, self._order, self._stuck = pools, order, {}
        if self._upstream is not None:
            self._upstream.close(Replaced("the configuration has changed"))

    def prefer(self, index: int) -> None:
        """The operator wants this pool."""
        self._order.prefer(index)
        self._stuck.pop(index, None)

    def postpone(self, index: int, until: float, failure: UpstreamError) -> None:
        """A pool was found down: no look at it before then, monotonic seconds."""
        self._order.postpone(index, until)
        if isinstance(failure, Stuck):
            self._stuck[index] = failure.block

    def _is_well(self, index: int) -> bool:
        """Whether a pool stands a full handshake, a job, and the time that it is to be well."""
        pool, order = self._pools[index], self._order
        watched = _Watched(self._stuck.get(index))
        upstream = self._upstream = Upstream(pool, watched, self._metrics)
        try:
            upstream.open()
            log.info("%s is up again; it is watched for %s%s", upstream, units.duration(pool.failback_after_seconds),
                     "" if watched.has_news else ", and until it sends new work")
            seconds = pool.failback_after_seconds
            while True:
                _relay(upstream, seconds)
                if watched.has_news:
                    break
                seconds = LOOK_EVERY
            if order is not self._order:
                return False
            order.succeeded(index)
            self._stuck.pop(index, None)
            self._metrics.pool_faults.pop(index, None)
            return True
        except UpstreamError as failure:
            if order is not self._order:
                return False
            wait = order.failed(index, monotonic(), failure.sick)
            self._metrics.pool_faults[index] = str(failure), time()
            log.info("%s is not well yet: %s; next look in %s", upstream, failure, units.duration(wait))
        finally:
            self._upstream = None
            upstream.close()
        return False

    def sweep(self, now: float) -> None:
        """Once a second: the deadlines of the connection that is watched."""
        if self._upstream is not None:
            self._upstream.sweep(now)


class _Watched(Unheard):
    """Whether a pool has new work: a job on another block than it was `stuck` on, or a second job. A pool that was not
    stuck need not show any."""

    def __init__(self, stuck: bytes | None) -> None:
        self.has_news = stuck is None
        self._stuck, self._jobs = stuck, 0

    def on_job(self, notify: Notify, difficulty: float) -> None:
        self._jobs += 1
        self.has_news = self.has_news or self._jobs > 1 or notify.prevhash != self._stuck


def _relay(upstream: Upstream, seconds: float) -> None:
    """Hear a pool for so long. Raises UpstreamError."""
    over = gevent.Timeout.start_new(seconds)
    try:
        upstream.relay()
    except gevent.Timeout as expired:
        if expired is not over:
            raise
    finally:
        over.cancel()


def _move(keeper: Keeper, index: int) -> Callable[[], None]:
    return lambda: keeper.move(index)

"""The routes of the proxy: a seat for every session, a pool connection for every route."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from time import monotonic

from gevent.event import Event

from karoo import config, units
from karoo.metrics import Metrics
from karoo.net.fanout import WriteAll
from karoo.pace import MustWait, in_loop
from karoo.policy.failover import Backoff, PoolOrder
from karoo.proxy.greenlets import Greenlets
from karoo.proxy.keeper import Keeper, number_of
from karoo.proxy.lost import UpstreamError
from karoo.proxy.pending import NoSeat
from karoo.proxy.prober import Prober
from karoo.proxy.routing import Route, Seated
from karoo.proxy.upstream import Upstream

log = logging.getLogger("karoo.upstream")

class Routes:
    """Every route, and the greenlet that keeps it connected.

    The first route is opened for the first session; a further one when no prefix is left on those that
    are there, up to `max_connections` of the pool.
    """

    def __init__(self, pools: list[config.Upstream], metrics: Metrics, diff1: int, pass_on: bool,
                 greenlets: Greenlets, write_all: WriteAll | None) -> None:
        self._pools, self._write_all = pools, write_all
        self._metrics, self._diff1, self._pass_on, self._greenlets = metrics, diff1, pass_on, greenlets
        self._rng = random.Random()
        self._reached = Event()  # pulses when a route got through to a pool
        self._reached_pool: int | None = None
        self.routes: list[Route] = []
        self.keepers: list[Keeper] = []
        self._prober: Prober | None = None
        self._changed = Event()
        self._preferred = 0  # the number of the pool that the operator wants
        self._waiting = 0  # sessions that wait for a seat

    # ------------------------------------------------------------------ seats

    def seat(self, session: Seated, former_id: str | None) -> Route:
        """The route that a session now belongs to; waits for the pool up to hold_ms. Raises NoSeat, MustWait."""
        return self._wait_for(session, lambda route: route.seat(session, former_id))

    def mask(self, session: Seated) -> int:
        """The pool's version-rolling mask; waits for the pool up to hold_ms. Raises NoSeat, MustWait."""
        return self._wait_for(session, lambda route: True).mask

    def _wait_for(self, session: Seated, suits: Callable[[Route], bool]) -> Route:
        """The first route that is up and suits; opens one where all that are up do not."""
        hold = self._pools[0].hold_ms / 1e3
        give_up_at = monotonic() + hold
        self._waiting += 1
        try:
            while not session.gone:
                for route in self.routes:
                    if route.is_up and suits(route):
                        return route
                if all(route.is_up for route in self.routes):
                    self._make_room()
                for route in self.routes:
                    route.wanted.set()
                if in_loop():
                    raise MustWait
                left = give_up_at - monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise NoSeat("No pool can be reached", f"for {units.duration(hold)}; {self._why()}")
            raise NoSeat("Closed while it waited for the pool")
        finally:
            self._waiting -= 1

    def _make_room(self) -> None:
        """Every connection is full: open another one, or get an abandoned one a new extranonce1. Raises NoSeat."""
        if len(self.routes) < self._pools[0].max_connections:
            self._open_another()
        elif all(route.sessions for route in self.routes):
            raise NoSeat("No extranonce is left", f"on {len(self.routes)} pool connections")
        else:
            for route in self.routes:
                route.renew()  # or a little later: whoever waits looks again at each sweep

    def _open_another(self) -> None:
        number = len(self.routes)
        if number:
            log.info("no extranonce is left: opening pool connection %d", number + 1)
        route = Route(number, self._pools[0], self._metrics, self._diff1, self._pass_on, self.wake, self._greenlets,
                      self._write_all)
        self.routes.append(route)
        route.wanted.set()
        keeper = Keeper(route, self._pools, self._order(), self, self._metrics)
        self.keepers.append(keeper)
        self._greenlets.keep(keeper.run, f"pool connection {number + 1}")
        if number == 0 and len(self._pools) > 1:
            self._look_for_better()

    def _look_for_better(self) -> None:
        self._prober = Prober(self._pools, self.keepers, self._order(), self._metrics, self._greenlets)
        self._greenlets.keep(self._prober.run, "the look for better pools")

    def _order(self) -> PoolOrder:
        order = PoolOrder([Backoff(pool.backoff_min_ms / 1e3, pool.backoff_max_ms / 1e3, self._rng)
                           for pool in self._pools])
        order.prefer(self._preferred)
        return order

    def wake(self) -> None:
        """Let all who wait for a seat look again."""
        self._changed.set()
        self._changed.clear()

    def _why(self) -> str:
        return next((route.last_reason for route in self.routes if route.last_reason), "try again later")

    # ------------------------------------------------------------------ the operator

    def change(self, pools: list[config.Upstream]) -> int:
        """Other pools are configured. A connection to one that stays as it was is kept; the others are replaced, make
        before break, and stay until that is done. How many these are."""
        kept = {n: old for n, pool in enumerate(pools) if (old := number_of(pool, self._pools)) is not None}
        self._metrics.pool_faults = {n: fault for n, old in kept.items()
                                     if (fault := self._metrics.pool_faults.get(old)) is not None}
        if self._preferred:
            self._preferred = next((n for n, old in kept.items() if old == self._preferred), 0)
        self._pools, self._reached_pool = pools, None
        if self._prober is not None:
            self._prober.change(pools, self._order())
        elif self.keepers:  # there are several by now, or one that is another one
            self._look_for_better()
        moving = 0
        self._reached.set()  # those that wait to try a former pool again wait for nothing
        self._reached.clear()
        for keeper in self.keepers:
            keeper.change(pools, self._order())
            if keeper.route.upstream is None:
                keeper.route.pool = pools[self._preferred]
            if keeper.route.is_up and keeper.index == len(pools):
                moving += 1
                self._greenlets.run(partial(keeper.move, self._preferred, asked=True), "the way to a changed pool")
        return moving

    def switch(self, index: int) -> int:
        """Take all miners to this pool, and to no better one until told; make before break. How many connections to
        pools move: where the pool cannot be had they stay, and go as soon as it can."""
        self._preferred = index
        if self._prober is not None:
            self._prober.prefer(index)
        moving = 0
        for keeper in self.keepers:
            keeper.prefer(index)
            if keeper.route.is_up and keeper.index != index:
                moving += 1
                self._greenlets.run(partial(keeper.move, index, asked=True), "the way to the pool that was asked for")
        return moving

    def close(self) -> None:
        """End the connections to pools: the proxy stops."""
        for keeper in self.keepers:
            keeper.close()

    def pool_of(self, route: Route) -> int | None:
        """The number of the pool that a route is on, or tries; None where that is configured no more."""
        index = next((keeper.index for keeper in self.keepers if keeper.route is route), len(self._pools))
        return index if index < len(self._pools) else None

    # ------------------------------------------------------------------ what the keepers ask

    def reached(self, index: int) -> None:
        """A pool answers: the routes that wait to try it again need not."""
        self._reached_pool = index
        self._reached.set()
        self._reached.clear()
        self.wake()

    def failed(self, index: int, until: float, failure: UpstreamError) -> None:
        """A route found a pool down, and leaves it alone until then, monotonic seconds."""
        if self._prober is not None:
            self._prober.postpone(index, until, failure)

    def await_reached(self, seconds: float) -> int | None:
        """Wait so long, or until another route reached a pool: its number then."""
        return self._reached_pool if self._reached.wait(seconds) else None

    def has_double(self, route: Route, upstream: Upstream) -> bool:
        """Two connections with one extranonce1 would do the same work twice."""
        others = (one.upstream for one in self.routes if one is not route)
        return any((one.host, one.port, one.extranonce) == (upstream.host, upstream.port, upstream.extranonce)
                   for one in others if one is not None)

    def sweep(self, now: float) -> None:
        """Once a second."""
        for route in self.routes:
            route.sweep(now, bool(self._waiting) and not route.is_up)
        for keeper in self.keepers:
            keeper.sweep()
        if self._prober is not None:
            self._prober.sweep(now)
        if self._waiting:
            self.wake()

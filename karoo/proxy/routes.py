"""The routes of the proxy: a seat for every session, a pool connection for every route."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from time import monotonic

import gevent
from gevent.event import Event

from karoo import config, units
from karoo.metrics import Metrics
from karoo.policy.failover import Backoff, PoolOrder
from karoo.proxy.greenlets import Greenlets
from karoo.proxy.pending import NoSeat
from karoo.proxy.routing import Route, Seated
from karoo.proxy.upstream import Redirected, Upstream, UpstreamError

log = logging.getLogger("karoo.upstream")

STEADY = 10.0  # seconds after which a connection that breaks is tried again at once, and not by its backoff


class Routes:
    """Every route, and the greenlet that keeps it connected.

    The first route is opened for the first session; a further one when no prefix is left on those that
    are there, up to `max_connections` of the pool.
    """

    def __init__(self, pools: list[config.Upstream], metrics: Metrics, diff1: int, pass_on: bool,
                 greenlets: Greenlets) -> None:
        self._pools = pools
        self._metrics, self._diff1, self._pass_on, self._greenlets = metrics, diff1, pass_on, greenlets
        rng = random.Random()
        self._order = PoolOrder([Backoff(pool.backoff_min_ms / 1e3, pool.backoff_max_ms / 1e3, rng) for pool in pools])
        self.routes: list[Route] = []
        self._changed = Event()
        self._waiting = 0  # sessions that wait for a seat

    # ------------------------------------------------------------------ seats

    def seat(self, session: Seated, former_id: str | None) -> Route:
        """The route that a session now belongs to; waits for the pool up to hold_ms. Raises NoSeat."""
        return self._wait_for(lambda route: route.seat(session, former_id))

    def mask(self) -> int:
        """The pool's version-rolling mask; waits for the pool up to hold_ms. Raises NoSeat."""
        return self._wait_for(lambda route: True).mask

    def _wait_for(self, suits: Callable[[Route], bool]) -> Route:
        """The first route that is up and suits; opens one where all that are up do not."""
        hold = self._pools[0].hold_ms / 1e3
        give_up_at = monotonic() + hold
        self._waiting += 1
        try:
            while True:
                for route in self.routes:
                    if route.is_up and suits(route):
                        return route
                if all(route.is_up for route in self.routes):
                    self._open_another()
                for route in self.routes:
                    route.wanted.set()
                left = give_up_at - monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise NoSeat(f"No pool can be reached for {units.duration(hold)}; {self._why()}")
        finally:
            self._waiting -= 1

    def _open_another(self) -> None:
        number = len(self.routes)
        if number >= self._pools[0].max_connections:
            raise NoSeat(f"No extranonce is left on {number} pool connections")
        if number:
            log.info("no extranonce is left: opening pool connection %d", number + 1)
        route = Route(number, self._pools[0], self._metrics, self._diff1, self._pass_on, self._notify, self._greenlets)
        self.routes.append(route)
        route.wanted.set()
        self._greenlets.keep(lambda: self._keep(route), f"pool connection {number + 1}")

    def _notify(self) -> None:
        """Wake all who wait for a seat."""
        self._changed.set()
        self._changed.clear()

    def _why(self) -> str:
        return next((route.last_reason for route in self.routes if route.last_reason), "try again later")

    # ------------------------------------------------------------------ connections

    def _keep(self, route: Route) -> None:
        """Keep a route connected for as long as it has sessions."""
        session_ids: dict[int, str | None] = {}  # by pool: what to resume
        redirected: tuple[int, tuple[str, int]] | None = None
        while True:
            route.wanted.wait()
            index, wait = (redirected[0], 0.0) if redirected else self._order.next(monotonic())
            if wait:
                gevent.sleep(wait)
                continue
            upstream = Upstream(self._pools[index], route, self._metrics, session_id=session_ids.get(index),
                                address=redirected[1] if redirected else None)
            redirected = None
            try:
                log.info("connecting to %s", upstream)
                upstream.open()
                self._refuse_a_double(upstream)
                self._order.succeeded(index)
                session_ids[index] = upstream.session_id
                route.opened(upstream)
                upstream.relay()
            except Redirected as order:
                redirected = index, (order.host, order.port)
                self._ended(route, upstream, order)
                gevent.sleep(order.wait)
            except UpstreamError as failure:
                steady = route.upstream is upstream and monotonic() - upstream.connected_at > STEADY
                self._ended(route, upstream, failure)
                if route.wanted.is_set():
                    wait = 0.0 if steady else self._order.failed(index, monotonic())
                    log.warning("%s: %s; %s", upstream, failure,
                                f"next try in {wait:.1f} s" if wait else "connecting again")
            finally:
                upstream.close()

    def _ended(self, route: Route, upstream: Upstream, reason: UpstreamError) -> None:
        upstream.close(reason)
        self._metrics.upstream_losses.count(str(reason))
        route.lost(str(reason))
        if not route.wanted.is_set():
            log.info("%s: %s", upstream, reason)
        self._notify()

    def _refuse_a_double(self, upstream: Upstream) -> None:
        """Two connections with one extranonce1 would do the same work twice."""
        for route in self.routes:
            other = route.upstream
            if other is not None and (other.host, other.port, other.extranonce) == (
                    upstream.host, upstream.port, upstream.extranonce):
                raise UpstreamError("the pool gives two connections the same extranonce1")

    def sweep(self, now: float) -> None:
        """Once a second."""
        for route in self.routes:
            route.sweep(now, bool(self._waiting) and not route.is_up)

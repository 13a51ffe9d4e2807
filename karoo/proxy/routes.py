"""The routes of the proxy: a seat for every session, a pool connection for every route."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from gevent.event import Event

from karoo import config, units
from karoo.metrics import Metrics
from karoo.policy.failover import Backoff, PoolOrder
from karoo.proxy.greenlets import Greenlets
from karoo.proxy.lost import Redirected, SessionRefused, UpstreamError
from karoo.proxy.pending import NoSeat
from karoo.proxy.routing import Route, Seated
from karoo.proxy.upstream import Upstream

log = logging.getLogger("karoo.upstream")

STOPS = "the proxy stops"
STEADY = 10.0  # seconds after which a connection that breaks is tried again at once, and not by its backoff


@dataclass(slots=True)
class _Redirect:
    """Where a pool asked us to come back, and after how many seconds."""

    index: int
    address: tuple[str, int]
    wait: float


@dataclass(slots=True)
class _Known:
    """What a route learned of a pool: the session to resume, and whether it takes one user name only."""

    session_id: str | None = None
    doubted: bool = False
    one_name: bool = False

    def doubt(self, sure: bool) -> None:
        """A handshake failed that was to resume a session: for that reason, or for another one once."""
        if sure or self.doubted:
            self.session_id = None
        self.doubted = not self.doubted and not sure


class Routes:
    """Every route, and the greenlet that keeps it connected.

    The first route is opened for the first session; a further one when no prefix is left on those that
    are there, up to `max_connections` of the pool.
    """

    def __init__(self, pools: list[config.Upstream], metrics: Metrics, diff1: int, pass_on: bool,
                 greenlets: Greenlets) -> None:
        self._pools = pools
        self._metrics, self._diff1, self._pass_on, self._greenlets = metrics, diff1, pass_on, greenlets
        self._rng = random.Random()
        self._reached = Event()  # pulses when a route got through to a pool
        self._reached_pool: int | None = None
        self.routes: list[Route] = []
        self._changed = Event()
        self._waiting = 0  # sessions that wait for a seat

    # ------------------------------------------------------------------ seats

    def seat(self, session: Seated, former_id: str | None) -> Route:
        """The route that a session now belongs to; waits for the pool up to hold_ms. Raises NoSeat."""
        return self._wait_for(session, lambda route: route.seat(session, former_id))

    def mask(self, session: Seated) -> int:
        """The pool's version-rolling mask; waits for the pool up to hold_ms. Raises NoSeat."""
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
                left = give_up_at - monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise NoSeat(f"No pool can be reached for {units.duration(hold)}; {self._why()}")
            raise NoSeat("Closed while it waited for the pool")
        finally:
            self._waiting -= 1

    def _make_room(self) -> None:
        """Every connection is full: open another one, or get an abandoned one a new extranonce1. Raises NoSeat."""
        if len(self.routes) < self._pools[0].max_connections:
            self._open_another()
        elif all(route.sessions for route in self.routes):
            raise NoSeat(f"No extranonce is left on {len(self.routes)} pool connections")
        else:
            for route in self.routes:
                route.renew()  # or a little later: whoever waits looks again at each sweep

    def _open_another(self) -> None:
        number = len(self.routes)
        if number:
            log.info("no extranonce is left: opening pool connection %d", number + 1)
        route = Route(number, self._pools[0], self._metrics, self._diff1, self._pass_on, self.wake, self._greenlets)
        self.routes.append(route)
        route.wanted.set()
        self._greenlets.keep(lambda: self._keep(route), f"pool connection {number + 1}")

    def wake(self) -> None:
        """Let all who wait for a seat look again."""
        self._changed.set()
        self._changed.clear()

    def _why(self) -> str:
        return next((route.last_reason for route in self.routes if route.last_reason), "try again later")

    # ------------------------------------------------------------------ connections

    def _keep(self, route: Route) -> None:
        """Keep a route connected for as long as it has sessions."""
        order = PoolOrder([Backoff(pool.backoff_min_ms / 1e3, pool.backoff_max_ms / 1e3, self._rng)
                           for pool in self._pools])
        known = [_Known() for _ in self._pools]
        redirect: _Redirect | None = None
        while True:
            route.wanted.wait()
            index, wait = (redirect.index, redirect.wait) if redirect else order.next(monotonic())
            if wait and self._reached.wait(wait) and self._reached_pool is not None:
                order.succeeded(self._reached_pool)  # another route got through: no reason to wait
            if wait and redirect is None:
                continue
            redirect = self._connect(route, order, index, known[index], redirect)

    def _connect(self, route: Route, order: PoolOrder, index: int, known: _Known,
                 redirect: _Redirect | None) -> _Redirect | None:
        """One connection from dial to end; where the pool sent us to, if it did."""
        resume = None if route.fresh_start else known.session_id
        route.fresh_start = False
        upstream = Upstream(self._pools[index], route, self._metrics, session_id=resume,
                            address=redirect.address if redirect else None, one_name=known.one_name)
        reason, next_redirect = STOPS, None
        try:
            log.info("connecting to %s", upstream)
            upstream.open()
            self._refuse_a_double(upstream)
            order.succeeded(index)
            known.session_id, known.doubted = upstream.session_id, False
            route.opened(upstream)
            self._tell_reached(index)
            upstream.relay()
        except UpstreamError as failure:
            reason = str(failure)
            if upstream.resuming and route.upstream is not upstream:
                known.doubt(sure=isinstance(failure, SessionRefused))
            steady = route.upstream is upstream and monotonic() - upstream.connected_at > STEADY
            if isinstance(failure, Redirected) and (steady or redirect is None):
                next_redirect = _Redirect(index, (failure.host, failure.port), failure.wait)
            elif not steady and route.wanted.is_set() and not route.fresh_start:
                reason += f"; next try in {order.failed(index, monotonic()):.1f} s"
        except Exception:
            reason = "a bug in the proxy"
            raise
        finally:
            known.one_name = upstream.names.one_name
            self._ended(route, upstream, reason)
        return next_redirect

    def _tell_reached(self, index: int) -> None:
        """A pool answers: the routes that wait to try it again need not."""
        self._reached_pool = index
        self._reached.set()
        self._reached.clear()

    def _ended(self, route: Route, upstream: Upstream, reason: str) -> None:
        upstream.close(UpstreamError(reason))
        route.lost(reason)
        self._metrics.upstream_losses.count(reason.partition(";")[0])
        expected = reason == STOPS or not route.wanted.is_set()
        log.log(logging.INFO if expected else logging.WARNING, "%s: %s", upstream, reason)
        self.wake()

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
        if self._waiting:
            self.wake()

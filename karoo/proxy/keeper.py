"""Keeps one route connected: to the best pool that can be had, and back to a better one when it is well again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic, time
from typing import Protocol

from karoo import config
from karoo.metrics import Metrics
from karoo.policy.failover import PoolOrder
from karoo.proxy.lost import Redirected, Replaced, SessionRefused, Sick, UpstreamError
from karoo.proxy.routing import Route
from karoo.proxy.upstream import Upstream
from karoo.timeline import INFO, WARNING

log = logging.getLogger("karoo.upstream")

STOPS, CHANGED = "the proxy stops", "the configuration has changed"
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


class Company(Protocol):
    """What a keeper knows of the other routes."""

    def reached(self, index: int) -> None: ...
    def await_reached(self, seconds: float) -> int | None: ...
    def wake(self) -> None: ...
    def failed(self, index: int, until: float, failure: UpstreamError) -> None: ...
    def has_double(self, route: Route, upstream: Upstream) -> bool: ...


class Keeper:
    """The connections of one route. ``index`` is the number of the pool that it is on, or tries; behind the last one
    while it is on a pool that is configured no more."""

    def __init__(self, route: Route, pools: list[config.Upstream], order: PoolOrder, company: Company,
                 metrics: Metrics) -> None:
        self.route = route
        self.index = 0
        self._pools, self._order, self._company, self._metrics = pools, order, company, metrics
        self._known = [_Known() for _ in pools]
        self._redirect: _Redirect | None = None
        self._warned: Upstream | None = None
        self._under_way: set[Upstream] = set()  # from dial to end
        self._served: int | None = None  # the pool that miners worked for last
        self._served_name = ""
        self._closed = False

    def run(self) -> None:
        """Connect whenever the route is wanted and has no connection, until the proxy stops."""
        while True:
            self.route.wanted.wait()
            self.route.vacant.wait()
            if self._closed:
                return
            redirect = self._redirect
            index, wait = (redirect.index, redirect.wait) if redirect else self._order.next(monotonic())
            if wait:
                reached = self._company.await_reached(wait)
                if reached is not None:
                    self._order.succeeded(reached)  # another route got through: no reason to wait
                if redirect is None or self._redirect is not redirect:
                    continue
            self._redirect = None
            self._serve(index, redirect)

    def change(self, pools: list[config.Upstream], order: PoolOrder) -> None:
        """Other pools are configured. The connection stays, though it may be to a pool that is none of them; a dial to
        such a one ends."""
        numbers = [number_of(pool, self._pools) for pool in pools]  # what the same ones were before
        self._known = [_Known() if number is None else self._known[number] for number in numbers]
        self.index = self._moved(self.index, pools)
        self._served = None if self._served is None else self._moved(self._served, pools)
        self._pools, self._order, self._redirect = pools, order, None
        for upstream in list(self._under_way):
            number = number_of(upstream.pool, pools)
            if number is not None:
                upstream.pool = pools[number]
            elif upstream.served_since is None:
                upstream.close(Replaced(CHANGED))
        if self.route.upstream is not None:
            self.route.pool = self.route.upstream.pool

    def _moved(self, index: int, pools: list[config.Upstream]) -> int:
        """The number that a pool has among others."""
        number = number_of(self._pools[index], pools) if index < len(self._pools) else None
        return len(pools) if number is None else number

    def close(self) -> None:
        """End all connections, and make no other one: the proxy stops."""
        self._closed = True
        for upstream in self._under_way:
            upstream.close(Replaced(STOPS))

    def prefer(self, index: int) -> None:
        """The operator wants this pool: it goes before all others."""
        self._order.prefer(index)

    def move(self, index: int, asked: bool = False) -> None:
        """Make before break: connect to a better pool, or one that the operator `asked` for, and leave the present one
        only when a job is there."""
        self._serve(index, None, instead_of=self.route.upstream, asked=asked)
        if self.route.is_up and self.index == len(self._pools):
            log.warning("the miners stay on %s, which is configured no more, until %s can be had", self.route.upstream,
                        self._pools[index].name)

    def sweep(self) -> None:
        """Once a second: leave a pool that refuses too many shares, where there is another one."""
        upstream = self.route.upstream
        ratio = upstream.refusals.ratio if upstream is not None else None
        if upstream is None or ratio is None or ratio <= upstream.pool.max_reject_ratio:
            return
        text = f"the pool refuses {ratio:.0%} of the shares"
        if len(self._pools) > 1:
            upstream.close(Sick(text))
        elif self._warned is not upstream:
            self._warned = upstream
            log.warning("%s: %s, and there is no backup pool to go to", upstream, text)

    def _serve(self, index: int, redirect: _Redirect | None, instead_of: Upstream | None = None,
               asked: bool = False) -> None:
        """One connection from dial to end."""
        route, pool, known = self.route, self._pools[index], self._known[index]
        resume = None if route.fresh_start else known.session_id
        route.fresh_start = False
        upstream = Upstream(pool, route, self._metrics, session_id=resume,
                            address=redirect.address if redirect else None, one_name=known.one_name)
        reason, planned = STOPS, True
        self._under_way.add(upstream)
        try:
            log.info("connecting to %s", upstream)
            upstream.open()
            if self._company.has_double(route, upstream):
                raise UpstreamError("the pool gives two connections the same extranonce1")
            if route.upstream is not instead_of:
                raise Replaced("not needed any more: another connection was faster")
            index = self._present(pool)
            self._order.succeeded(index)
            known.session_id, known.doubted = upstream.session_id, False
            self._metrics.pool_faults.pop(index, None)
            if self._served is not None and self._served != index:
                self._note_failover(self._served, index, asked)
            self._served = self.index = index
            self._served_name = self._pools[index].name
            route.opened(upstream)
            self._company.reached(index)
            upstream.relay()
        except UpstreamError as failure:
            reason = str(failure) if failure.planned else self._failed(upstream, failure, redirect)
            planned = failure.planned or not route.wanted.is_set()
        except Exception:
            reason, planned = "a bug in the proxy", False
            raise
        finally:
            self._under_way.discard(upstream)
            known.one_name = upstream.names.one_name
            self._ended(upstream, reason, planned)

    def _present(self, pool: config.Upstream) -> int:
        """The number of a pool. Raises Replaced where it is configured no more."""
        number = number_of(pool, self._pools)
        if number is None:
            raise Replaced(CHANGED)
        return number

    def _note_failover(self, former: int, index: int, asked: bool) -> None:
        """The miners went from one pool to another one."""
        back = self._order.rank(index) < self._order.rank(former)
        self._metrics.failovers += not (back or asked)
        name = self._served_name + (" as it was" if former == len(self._pools) else "")
        text = f"From {name} to {self._pools[index].name}" + (
            ", as the operator asked" if asked else ", which is well again" if back else "")
        self._metrics.timeline.note("failover", text, INFO if back or asked else WARNING, route=self.route.number)

    def _failed(self, upstream: Upstream, failure: UpstreamError, redirect: _Redirect | None) -> str:
        """What follows from the end of a connection; its reason in words."""
        route, now, index = self.route, monotonic(), number_of(upstream.pool, self._pools)
        if index is None:  # it is configured no more
            return str(failure)
        served = upstream.served_since is not None
        if upstream.resuming and not served:
            self._known[index].doubt(sure=isinstance(failure, SessionRefused))
        steady = upstream.served_since is not None and now - upstream.served_since > STEADY
        if isinstance(failure, Redirected) and (steady or redirect is None):
            self._redirect = _Redirect(index, (failure.host, failure.port), failure.wait)
        elif failure.sick or (not steady and route.wanted.is_set() and not route.fresh_start):
            served_for = 0.0 if upstream.served_since is None else now - upstream.served_since
            wait = self._order.failed(index, now, failure.sick, served_for)
            self._company.failed(index, now + wait, failure)
            return f"{failure}; next try in {wait:.1f} s"
        return str(failure)

    def _ended(self, upstream: Upstream, reason: str, planned: bool) -> None:
        upstream.close(UpstreamError(reason))
        self.route.lost(upstream, reason)
        if not planned:
            self._metrics.upstream_losses.count(reason.partition(";")[0])
            index = number_of(upstream.pool, self._pools)
            if index is not None:
                self._metrics.pool_faults[index] = reason.partition(";")[0], time()
        log.log(logging.INFO if planned else logging.WARNING, "%s: %s", upstream, reason)
        if upstream.served_since is not None:
            self._metrics.timeline.note("pool lost", f"{upstream}: {reason}", INFO if planned else WARNING,
                                        pool=upstream.pool.name, route=self.route.number)
        self._company.wake()


def number_of(pool: config.Upstream, pools: list[config.Upstream]) -> int | None:
    """Where a pool stands among these, as far as a connection to it tells; None where it does not."""
    return next((number for number, one in enumerate(pools) if one.connects_as(pool)), None)

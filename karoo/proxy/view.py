"""The state of the proxy as plain data, for pages and programs. Whoever asks may wait; no share does.

The workers and sessions are in `workersview`; what an operator may change is in `control`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from gevent.threadpool import ThreadPool

from karoo import __version__, descriptors
from karoo.accounting import summary
from karoo.accounting.faults import LedgerError
from karoo.accounting.ledger import open_reader
from karoo.accounting.series import RANGES, UNITS, Point, series
from karoo.net.ownaddress import towards_others
from karoo.policy.bans import Ban
from karoo.policy.workers import PASSTHROUGH, SINGLE
from karoo.proxy.door import plain_ban
from karoo.proxy.pick import page
from karoo.proxy.workersview import SESSION_SORTS, SORTS, STATES, WorkersView, pick_sessions, session_row
from karoo.readers import paced
from karoo.timeline import KINDS

if TYPE_CHECKING:
    from karoo.proxy.proxy import Proxy
    from karoo.proxy.routing import Route

FAULT_KEPT = 1800.0  # seconds after which it is not known any more whether a pool is down
FRESH = 1.0  # seconds for which a curve by minutes is shown as it was read
LONGEST_FRESH = 60.0  # the same of coarse ones
MOST_CURVES = 200  # that are kept so

Curve = tuple[int, list[Point]]  # the seconds of a point, and the points, oldest first


class NoHistory(LookupError):
    """No curve can be had; the text says why."""


BAN_SORTS: dict[str, Callable[[Ban], Any]] = {
    "address": lambda ban: ban.address, "since": lambda ban: ban.since, "until": lambda ban: ban.until,
    "times": lambda ban: ban.times,
}


class View:
    """What a page or a program sees of a proxy."""

    worker_sorts, session_sorts, worker_states = tuple(SORTS), tuple(SESSION_SORTS), STATES
    ban_sorts = tuple(BAN_SORTS)
    metrics, ranges, kinds = UNITS, RANGES, KINDS

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.workers = WorkersView(proxy.accounts, proxy.sessions)
        self._threads = ThreadPool(1)  # for the ledger: it waits for the disk
        self._curves: dict[tuple[str, str, str | None], tuple[float, Curve]] = {}

    # ------------------------------------------------------------------ all in one

    def summary(self) -> dict[str, Any]:
        """What an operator wants to know at one look."""
        proxy, now, unix = self._proxy, monotonic(), time()
        metrics, settings = proxy.metrics, proxy.settings
        done = summary.totals(proxy.accounts, unix, paced)
        listeners = self._listeners()
        return {
            "version": __version__, "uptime_seconds": round(now - proxy.started_at, 1),
            "started_unix": int(unix - (now - proxy.started_at)), "now_unix": int(unix),
            "algorithm": settings.shares.algorithm,
            "stratum": {"addresses": [address for one in listeners for address in one["addresses"]],
                        "listeners": listeners, **_login_form(settings.upstream.worker_names)},
            "pool": self._pool(now, unix), "hashrate": done["hashrate"], "hashrate_paid": done["hashrate_paid"],
            "workers": dict(self.workers.states()), "sessions": len(proxy.sessions), "max_sessions": proxy.door.room,
            "shares": {
                "accepted": done["accepted"], "rejected": done["rejected"],
                "rejected_by_reason": done["rejected_by_reason"], "per_second": done["shares_per_second"],
                "below_pool": done["below_pool"], "forwarded": done["forwarded"],
                "pool_accepted": done["pool_accepted"], "pool_rejected": done["pool_rejected"],
                "blocks": done["blocks"], "seconds_since_share": done["seconds_since_share"]},
            "difficulty": {
                "accepted": done["difficulty_accepted"], "forwarded": done["difficulty_forwarded"],
                "pool_accepted": done["pool_difficulty_accepted"], "pool_rejected": done["pool_difficulty_rejected"]},
            "pool_latency_ms": done["pool_latency_ms"], "bans": proxy.door.banned,
            "failovers": metrics.failovers, "exceptions": metrics.exceptions,
            "last_event_id": metrics.timeline.last_id, "ledger": proxy.books.snapshot(),
        }

    def _pool(self, now: float, unix: float) -> dict[str, Any]:
        """The pool that the miners work for, or why there is none."""
        proxy = self._proxy
        routes = proxy.routes.routes
        route = next((one for one in routes if one.is_up), routes[0] if routes else None)
        pools = proxy.settings.pools
        index = proxy.routes.pool_of(route) if route is not None else 0
        plain = route.snapshot(now) if route is not None else {}
        heard = proxy.metrics.last_notify
        named = route.pool if route is not None and index is None else pools[index or 0]
        return {
            "state": self._pool_state(route), "name": named.name,
            "address": plain.get("address"),
            "user": plain.get("user"),
            "since_unix": int(unix - plain["up_seconds"]) if plain.get("up_seconds") is not None else None,
            "reason": plain.get("reason", ""), "difficulty": plain.get("difficulty", 0.0),
            "network_difficulty": plain.get("network_difficulty"),
            "seconds_since_job": round(unix - heard, 1) if heard else None,
            "is_backup": index is None or index > 0, "connections": sum(one.is_up for one in routes),
        }

    @staticmethod
    def _pool_state(route: Route | None) -> str:
        """up, down, connecting (first try), or idle: nobody needs it."""
        if route is None or (route.upstream is None and not route.wanted.is_set()):
            return "idle"
        if route.is_up:
            return "up"
        return "down" if route.last_reason else "connecting"

    def _listeners(self) -> list[dict[str, Any]]:
        """Each listener that miners may reach without a balancer, and what they enter for that."""
        proxy = self._proxy
        return [{"name": entrance.settings.name,
                 "addresses": [address for host, port in listener.addresses for address in listener_addresses(
                     entrance.scheme, host, port, entrance.settings.dual_stack)]}
                for entrance, listener in zip(proxy.entrances, proxy.listeners, strict=True)
                if not entrance.settings.proxy_protocol]

    def not_ready(self) -> str:
        """Why miners cannot be served; empty when they can."""
        proxy = self._proxy
        if not all(listener.is_open for listener in proxy.listeners):
            return "it does not accept miners"
        pool = self._pool(monotonic(), time())
        if pool["state"] in ("up", "idle"):
            return ""
        return f"no pool is connected: {pool['reason'] or 'the first connection is under way'}"

    # ------------------------------------------------------------------ parts

    def session(self, number: int) -> dict[str, Any] | None:
        """A session by its number; None where there is none."""
        found = self._proxy.sessions.get(number)
        return None if found is None else session_row(found)

    def sessions(self, sort: str, descending: bool, text: str, worker: str, offset: int,
                 limit: int) -> tuple[int, list[dict[str, Any]]]:
        """How many there are, and one page; see `pick_sessions`."""
        with self.workers.walking:
            total, rows = self.pick_sessions(sort, descending, text, worker, offset, limit)
            return total, list(rows)

    def pick_sessions(self, sort: str, descending: bool, text: str, worker: str, offset: int,
                      limit: int) -> tuple[int, Iterator[dict[str, Any]]]:
        """The same; its rows are made as they are asked for."""
        with self.workers.walking:
            return pick_sessions(self._proxy.sessions, sort, descending, text, worker, offset, limit)

    def pools(self) -> list[dict[str, Any]]:
        """Each configured pool in order, with the connections to it."""
        proxy, now, unix = self._proxy, monotonic(), time()
        found: list[dict[str, Any]] = []
        for index, pool in enumerate(proxy.settings.pools):
            routes = [route for route in proxy.routes.routes if proxy.routes.pool_of(route) == index]
            connections = [_connection(route.snapshot(now)) for route in routes]
            up = [one["up_seconds"] for one in connections if one["up"]]
            reason, failed = proxy.metrics.pool_faults.get(index, ("", 0.0))
            if unix - failed > FAULT_KEPT:
                reason = ""  # nobody has tried since
            found.append({
                "index": index, "name": pool.name, "host": pool.place.host, "port": pool.place.port, "user": pool.user,
                "tls": pool.place.tls, "socks": pool.socks_proxy.enabled,
                "state": "active" if up else "down" if reason else "standby" if index or not routes else "unknown",
                "since_unix": int(unix - max(up)) if up else int(failed) if reason else None,
                "reason": "" if up else reason, "sessions": sum(one["sessions"] for one in connections),
                "connections": connections})
        return found

    def bans(self, sort: str, descending: bool, text: str, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """How many bans hold a text in address or reason, and one page of them. `sort` is one of BAN_SORTS."""
        now, text = monotonic(), text.casefold()
        found = (ban for ban in paced(self._proxy.door.bans(now)) if text in f"{ban.address} {ban.why}".casefold())
        total, bans = page(found, BAN_SORTS[sort], descending, offset, limit)
        return total, [plain_ban(ban, now) for ban in bans]

    def events(self, after: int = 0, kinds: Collection[str] = (), text: str = "") -> list[dict[str, Any]]:
        """What happened after the one with this id, of some kinds or (empty) of all, the latest first."""
        return [one.plain() for one in self._proxy.metrics.timeline.after(after, kinds, text)]

    # ------------------------------------------------------------------ curves

    def history(self, metric: str, extent: str, worker: str | None) -> Curve:
        """A curve from the ledger: one of `metrics` over one of `ranges`, of a worker or of all. Raises NoHistory."""
        path = self._proxy.settings.accounting.database
        if not path:
            raise NoHistory("the accounts are not kept (accounting.database is empty)")
        key, now = (metric, extent, worker), monotonic()
        known = self._curves.get(key)
        fresh = min(RANGES[extent].step / 60 * FRESH, LONGEST_FRESH) if known is not None and known[1][1] else FRESH
        if known is None or now - known[0] > fresh:
            if len(self._curves) >= MOST_CURVES:
                self._curves.clear()
            found = self._threads.apply(_read, (path, metric, extent, worker, self._proxy.accounts.diff1))
            if isinstance(found, str):
                raise NoHistory(found)
            known = self._curves[key] = now, found
        return known[1]

    def stop(self) -> None:
        """End the thread that reads."""
        self._threads.kill()

    # ------------------------------------------------------------------ figures for monitoring

    def figures(self) -> dict[str, Any]:
        """What Prometheus is told: `Proxy.snapshot`, and what only it wants to know."""
        proxy, metrics = self._proxy, self._proxy.metrics
        open_files, limit = descriptors.used()
        return proxy.snapshot() | {
            "histograms": {"job_fanout": metrics.job_fanout.plain(), "answer_here": metrics.answer_here.plain(),
                           "answer_pool": metrics.answer_pool.plain()},
            "hub_lag_seconds": metrics.hub_lags[-1], "hub_lag_max_seconds": max(metrics.hub_lags),
            "backlog_bytes": sum(session.conn.backlog_bytes for session in paced(list(proxy.sessions.values()))),
            "vardiff_changes": metrics.vardiff_changes, "failovers": metrics.failovers, "bans_total": metrics.bans,
            "descriptors": {"open": open_files, "limit": limit}, "pools": self.pools(),
            "states": dict(self.workers.states()), "hash_engine": proxy.speed.kind}


def _connection(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: plain[name] for name in (
        "number", "address", "up", "up_seconds", "user", "difficulty", "network_difficulty", "extranonce1",
        "extranonce2_size", "version_mask", "sessions", "held_shares", "owed_answers", "prefixes")}


def _read(path: str, metric: str, extent: str, worker: str | None, diff1: int) -> Curve | str:
    """In a thread: a curve, or why there is none."""
    try:
        reader = open_reader(path)
        try:
            return series(reader, metric, extent, time(), worker, diff1)
        finally:
            reader.close()
    except LedgerError as error:
        return str(error)


def _login_form(worker_names: str) -> dict[str, str]:
    """What a miner enters as user and password."""
    if worker_names == PASSTHROUGH:
        return {"user_form": "your-user-at-the-pool.rig1", "password_form": "your password there",
                "worker_hint": "The pool sees user and password as the miner gives them."}
    seen = ("The pool sees all miners as one user." if worker_names == SINGLE else
            "The pool sees it behind the configured user.")
    return {"user_form": "anything.rig1", "password_form": "anything",
            "worker_hint": f"What follows the first dot of the user is the worker's name. {seen}"}


def listener_addresses(scheme: str, host: str, port: int, dual_stack: bool) -> list[str]:
    """What a miner on the network enters to reach a listener."""
    if host in ("0.0.0.0", "::", ""):
        families = {socket.AF_INET} if host != "::" else {socket.AF_INET6, *([socket.AF_INET] if dual_stack else [])}
        hosts = [each for each in map(towards_others, sorted(families)) if each] or [socket.gethostname()]
    else:
        hosts = [host]
    return [f"{scheme}://{f'[{each}]' if ':' in each else each}:{port}" for each in hosts]

"""The proxy: builds the parts, owns their greenlets, starts, sweeps, stops, tells its state."""

from __future__ import annotations

import gc
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time
from typing import Any

import gevent
from gevent.event import Event

from karoo import __version__, config, descriptors, speed
from karoo.accounting import summary
from karoo.accounting.account import Accounts
from karoo.accounting.bookkeeper import Bookkeeper
from karoo.metrics import Metrics
from karoo.net.listener import Listener
from karoo.net.outbox import Outbox
from karoo.pace import paced
from karoo.policy.conduct import Rules
from karoo.policy.vardiff import DifficultyPolicy, Remembered
from karoo.policy.workers import WorkerNames
from karoo.proxy.control import Control
from karoo.proxy.door import Door
from karoo.proxy.entrance import Entrance
from karoo.proxy.greenlets import Greenlets
from karoo.proxy.house import House
from karoo.proxy.routes import Routes
from karoo.proxy.session import Session
from karoo.proxy.view import View
from karoo.proxy.waysin import Security, Take, check_pools, nothing_passed, open_sockets, securities
from karoo.stratum.share import Judge
from karoo.timeline import CRITICAL, INFO

log = logging.getLogger("karoo.proxy")

SWEEP_EVERY = 1.0  # seconds
# Nobody is answered while garbage is looked for: 0.1 ms among the 1,000 youngest objects, but 80 ms among all that
# 10,000 miners have. That would find nothing, as sessions, shares and jobs leave no cycles (a test holds this). So
# what so many new sessions hold is put out of its sight, and what their shares brought so many seconds later. All else
# is looked through after a million more.
GC_THRESHOLDS = 1_000, 1_000, 1_000
FREEZE_AT, FREEZE_AGAIN = 500, 120.0
REPORTED_WORKERS = 50
SHOWN_IDLE_WORKERS = 1000  # that never sent a share, on the status page
SETTLE_EVERY = 0.01  # seconds between two looks whether the pool has answered all
LOOK_EVERY = 5.0  # seconds between two looks whether reports are wanted by now
QUIET_WITHIN = 2.0  # seconds in which miners that are to end may still send shares
LAST_VERDICTS = 2.0  # seconds that the end waits for what the pool says of the last shares, so that it is booked


class Proxy:
    """One process: the ways in, the sessions, and the routes to the pool. `take` gives the descriptors of sockets that
    systemd passes, by name; `swept` is called at the end of each sweep, every second. ``gave_up`` is set, and
    ``why_gave_up`` says why, where the proxy cannot go on. Raises ListenError, TlsError."""

    def __init__(self, settings: config.Config, take: Take = nothing_passed,
                 swept: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self._swept = swept
        self.metrics = Metrics()
        self.outbox = Outbox()
        self.started_at = monotonic()
        self.sessions: dict[int, Session] = {}
        self.gave_up, self.why_gave_up = Event(), ""
        self._at_once = Event()  # the operator waits for no more verdicts
        self._greenlets, self._clerk = (Greenlets(self.metrics, self._give_up) for _ in range(2))
        self.speed = speed.load()
        judge = Judge(settings.shares.algorithm, make_work=self.speed.make_work)
        self.accounts = Accounts(self.started_at, time() - self.started_at, judge.algorithm.diff1)
        self.books = Bookkeeper(self.accounts, settings.accounting.database, settings.accounting.flush_seconds)
        self.routes = Routes(settings.pools, self.metrics, judge.algorithm.diff1,
                             not settings.compat.strict_broadcast, self._greenlets, self.speed.write_all)
        self.door = Door(settings.ratelimit, _room(settings), self.metrics, self._greenlets)
        self._judge, self._remembered = judge, Remembered()
        self.entrances = [Entrance(way, security, self)
                          for way, security in zip(settings.ways_in, securities(settings), strict=True)]
        check_pools(settings)
        self.listeners = self._listen(take)
        for entrance in self.entrances:
            entrance.house = self._house(settings, entrance)
        self._number = 0
        self._frozen, self._freeze_at = 0, math.inf  # sessions that are out of the collector's sight, and when again
        self._noted_fault, self._noted_bugs = "", 0
        self.view, self.control = View(self), Control(self)

    def _listen(self, take: Take) -> list[Listener]:
        """Every address, or none of them. Raises ListenError."""
        found: list[Listener] = []
        try:
            for entrance in self.entrances:
                found.append(Listener(open_sockets(entrance.settings.address, take, entrance.settings.dual_stack),
                                      entrance.on_connection, self.door.starve))
        except BaseException:
            for listener in found:
                listener.stop()
            raise
        return found

    def _house(self, settings: config.Config, entrance: Entrance) -> House:
        """What the sessions of an entrance share."""
        vardiff, way, upstream = settings.vardiff_of(entrance.settings), entrance.settings, settings.upstream
        start = None if isinstance(vardiff.start_diff, str) else vardiff.start_diff
        return House(
            seat=self.routes.seat, mask=self.routes.mask, judge=self._judge, blame=self.door.blame,
            left=entrance.left, spawn=self._greenlets.run, entrance=way.name or way.address,
            rules=_rules(settings, way),
            names=WorkerNames(upstream.worker_names, upstream.user),
            difficulty=DifficultyPolicy(
                vardiff.enabled, vardiff.min_diff, vardiff.max_diff, start,
                tuple((part.lower(), difficulty) for part, difficulty in vardiff.start_by_agent),
                vardiff.target_seconds, vardiff.rounding == "power_of_two"),
            remembered=self._remembered, accounts=self.accounts, metrics=self.metrics)

    @property
    def listener(self) -> Listener:
        """The first one."""
        return self.listeners[0]

    @property
    def on_their_way(self) -> int:
        """Connections of all listeners that are no sessions yet."""
        return sum(entrance.on_their_way for entrance in self.entrances)

    def number(self) -> int:
        """That of a new session."""
        self._number += 1
        return self._number

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Accept miners from now on. The pool is dialled when the first one is there."""
        gc.set_threshold(*GC_THRESHOLDS)
        # So long may the ledger's thread hold Python's lock while a share waits; the default is ten times it.
        sys.setswitchinterval(0.0005)
        for listener in self.listeners:
            listener.start()
        self._clerk.keep(self.books.run, "the bookkeeper")
        self._greenlets.keep(self._sweep_for_ever, "sweep")
        self.metrics.timeline.note("start", f"Karoo {__version__} started")
        self._greenlets.keep(self._report_for_ever, "report")
        for entrance, listener in zip(self.entrances, self.listeners, strict=True):
            log.info("miners may connect to %s%s", listener, entrance.manner)

    def drain(self, give_up: Event) -> None:
        """Stop accepting, and wait until the pool has given its word on every share that came: for
        `proxy.drain_seconds` at most, and not after `give_up`. Miners that send on are served for a little while, in
        the hope of a moment in which nothing is owed. There is none where shares never cease: what they send from then
        on they send in vain."""
        self._stop_accepting()
        self._at_once = give_up
        began, seconds = monotonic(), self.settings.proxy.drain_seconds
        self._settle(began + min(QUIET_WITHIN, seconds / 2))
        for session in list(self.sessions.values()):
            session.pause()
        self._settle(began + seconds)

    def _settle(self, until: float) -> None:
        """Wait until no pool owes a verdict, but no longer than the operator does."""
        while any(route.owes_verdicts for route in self.routes.routes) and monotonic() < until:
            if self._at_once.wait(SETTLE_EVERY):
                return

    def _stop_accepting(self) -> None:
        for entrance, listener in zip(self.entrances, self.listeners, strict=True):
            listener.stop()
            entrance.close()

    def stop(self) -> None:
        """Stop accepting, end every session and pool connection, write the accounts."""
        self._stop_accepting()
        self.metrics.timeline.note("stop", f"Karoo {__version__} stops")
        for route in self.routes.routes:
            if route.upstream is None:
                route.give_up()
        for session in list(self.sessions.values()):
            session.end("the proxy stops")
        self.routes.wake()  # those that wait for a pool
        self._settle(monotonic() + LAST_VERDICTS)
        self.routes.close()
        self._greenlets.end()
        for route in self.routes.routes:
            route.give_up()  # shares that no pool was sent: nobody waits for a verdict, but they are counted
        self.books.stop()
        self._clerk.end()
        self.view.stop()

    def _give_up(self, why: str) -> None:
        """The proxy cannot go on: whoever started it is to end the process."""
        log.critical("%s: the process ends, so that it can be started anew", why)
        self.metrics.timeline.note("bug", why, CRITICAL)
        self.why_gave_up = self.why_gave_up or why
        self.gave_up.set()

    def apply(self, settings: config.Config, certificates: Sequence[Security]) -> None:
        """Other settings from now on, also for the miners that are connected, none of whom is dropped, and other
        certificates, one for each listener (see `securities`). What no running proxy can change must be as it was (see
        `reload`), and the files of the pools as they should be (see `check_pools`)."""
        former, self.settings = self.settings, settings
        self.door.change(settings.ratelimit)
        self.door.room = _room(settings)
        self.books.change(settings.accounting.flush_seconds)
        houses = {}
        for entrance, way, security in zip(self.entrances, settings.ways_in, certificates, strict=True):
            before = entrance.house
            entrance.change(way, security)
            entrance.house = houses[id(before)] = self._house(settings, entrance)
        now = monotonic()
        for session in paced(list(self.sessions.values())):
            session.move(houses.get(id(session.house), session.house), now)
        if settings.pools != former.pools:
            self.routes.change(settings.pools)

    # ------------------------------------------------------------------ once a second, once a minute

    def _sweep_for_ever(self) -> None:
        while True:
            due = monotonic() + SWEEP_EVERY
            gevent.sleep(SWEEP_EVERY)
            now = monotonic()
            self.metrics.hub_lags.append(max(0.0, now - due))
            self._sweep_sessions(now)
            self._adjust_sessions(now)
            self.routes.sweep(now)
            self.door.sweep(now)
            self._spare_collector(now)
            self._note_troubles()
            self._swept()

    def _sweep_sessions(self, now: float) -> None:
        """End the silent ones and those that do not get on; give a sign of life to those that hear nothing."""
        settings = self.settings.proxy
        before = now - settings.client_idle_ms / 1e3 if settings.client_idle_ms else 0.0
        after = now - settings.authorized_idle_ms / 1e3 if settings.authorized_idle_ms else 0.0
        quiet = now - settings.quiet_ms / 1e3
        for session in paced(list(self.sessions.values())):
            conn = session.conn
            if session.waits:  # for the pool, and does not read
                if conn.peer_left():
                    session.end("the miner closed the connection")
                    self.routes.wake()
                continue
            session.watch_handshake(now)
            if conn.last_heard < (after if session.workers else before):
                session.end("silent for too long")
            elif conn.last_sent < quiet:
                session.repeat_difficulty()
            if conn.has_layer:
                conn.watch(now)

    def _adjust_sessions(self, now: float) -> None:
        """Look at every difficulty: each second while a session is young, else every adjust_every_ms, in turn."""
        every = max(1, round(self.settings.vardiff.adjust_every_ms / 1e3))
        turn = int(now) % every
        for session in paced(list(self.sessions.values()), 50):  # looks take longer than most
            if session.tuner.probing or session.number % every == turn:
                session.adjust(now)

    def _spare_collector(self, now: float) -> None:
        """Many miners more: what they hold is there to stay."""
        self._frozen = min(self._frozen, len(self.sessions))
        many_more = len(self.sessions) >= self._frozen + FREEZE_AT
        if many_more or now >= self._freeze_at:
            gc.collect(0)  # what is garbage now would be so for ever
            gc.freeze()
            self._frozen = len(self.sessions)
            self._freeze_at = now + FREEZE_AGAIN if many_more else math.inf

    def _note_troubles(self) -> None:
        """What happens where the timeline is not known."""
        fault, bugs, note = self.books.fault, self.metrics.exceptions, self.metrics.timeline.note
        if fault != self._noted_fault:
            note("ledger", f"The accounts are not kept: {fault}" if fault else "The accounts are written again",
                 CRITICAL if fault else INFO)
        if bugs > self._noted_bugs:
            note("bug", f"A bug in the proxy ({bugs} since the start): please report the traceback that is in the log",
                 CRITICAL)
        self._noted_fault, self._noted_bugs = fault, bugs

    def _report_for_ever(self) -> None:
        while True:
            every = self.settings.log.report_every_seconds
            gevent.sleep(every or LOOK_EVERY)
            if every:
                self.report()

    def report(self) -> None:
        """The periodic report: a line for all together, and one for each worker (for people, of the strongest)."""
        now = time()
        total = summary.totals(self.accounts, now, paced)
        log.info("report: %s", summary.report_line(total), extra={"report": total})
        workers = list(paced(summary.summaries(self.accounts, now), 50))  # never delay a share for a report
        workers.sort(key=lambda one: one["hashrate"]["15m"], reverse=True)
        shown = workers if self.settings.log.format == "json" else workers[:REPORTED_WORKERS]
        for worker in paced(shown):
            log.info("report: %s", summary.report_line(worker), extra={"report": worker})
        if len(shown) < len(workers):
            log.info("report: … and %d workers more", len(workers) - len(shown))

    # ------------------------------------------------------------------ state

    def snapshot(self) -> dict[str, Any]:
        """The state as plain data, without the sessions."""
        now, metrics = monotonic(), self.metrics
        return {
            "version": __version__, "uptime_seconds": round(now - self.started_at, 1),
            "listen": [self.listener.host, self.listener.port],
            "listeners": [{"name": one.house.entrance, "address": str(listener), "scheme": one.scheme,
                           "sessions": one.inside, "on_their_way_in": one.on_their_way,
                           "certificate_expires_unix": one.security.expires}
                          for one, listener in zip(self.entrances, self.listeners, strict=True)],
            "algorithm": self.settings.shares.algorithm,
            "sessions": len(self.sessions), "max_sessions": self.door.room, "connections": metrics.connections,
            "turned_away": dict(metrics.turned_away), "ended": dict(metrics.ended), "exceptions": metrics.exceptions,
            "jobs": metrics.jobs, "last_notify_unix": int(metrics.last_notify), "blocks": metrics.blocks,
            "seconds_since_job": round(time() - metrics.last_notify, 1) if metrics.last_notify else None,
            "upstream_dials": metrics.upstream_dials, "upstream_losses": dict(metrics.upstream_losses),
            "routes": [route.snapshot(now) for route in self.routes.routes],
            "unexpected_answers": metrics.unexpected_answers, **self.door.snapshot(now), "tables": self._tables(),
            "accounts": summary.totals(self.accounts, time(), paced), "ledger": self.books.snapshot(),
        }

    def _tables(self) -> dict[str, int]:
        """How much of everything is kept. Whatever peers do, none of these grows without bound."""
        routes = self.routes.routes
        return {
            "sessions": len(self.sessions), "workers": len(self.accounts.workers),
            "remembered_difficulties": len(self._remembered),
            "on_their_way_in": self.on_their_way, **self.door.tables(),
            "jobs": sum(len(route.jobs) for route in routes),
            "prefixes": sum(route.prefixes.held for route in routes if route.prefixes is not None),
            "held_shares": sum(route.held for route in routes),
            "owed_answers": sum(route.upstream.owed for route in routes if route.upstream is not None),
            "names_at_pools": sum(len(route.upstream.names) for route in routes if route.upstream is not None),
        }

    def session_snapshots(self) -> Iterator[dict[str, Any]]:
        """Each session as plain data; whoever walks may pause between two."""
        for session in list(self.sessions.values()):
            yield session.snapshot(monotonic())

    def worker_snapshots(self) -> Iterator[dict[str, Any]]:
        """Each worker's account as plain data; whoever walks may pause between two. Of those that never sent a share
        only some, so that made-up names fill no page."""
        return summary.summaries(self.accounts, time(), SHOWN_IDLE_WORKERS)


def _room(settings: config.Config) -> int:
    """How many miners fit."""
    room, most = descriptors.room(), settings.proxy.max_clients
    return most if room is None else min(most, room)


def _rules(settings: config.Config, way: config.Listener) -> Rules:
    """What one miner may do that comes this way."""
    proxy, limits, own = settings.proxy, settings.ratelimit, way.profile
    misbehaviour, submits = own.max_misbehaviour, own.max_submits_per_second
    submits = limits.max_submits_per_second if submits is None else submits
    return Rules(proxy.max_misbehaviour if misbehaviour is None else misbehaviour, submits if limits.enabled else 0,
                 (proxy.first_byte_ms / 1e3, proxy.subscribe_ms / 1e3, proxy.authorize_ms / 1e3))

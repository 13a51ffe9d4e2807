"""The workers as pages show them: their state, their sessions, one page of them in any order, one by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from time import monotonic, time
from typing import Any

from gevent.lock import RLock

from karoo.accounting import summary
from karoo.accounting.account import NOBODY, OTHER, Account, Accounts
from karoo.proxy.pick import page
from karoo.proxy.session import Session
from karoo.readers import paced
from karoo.stratum import difficulty as dif

SILENT_AFTER = 300.0  # seconds without a share, after which a miner that is connected counts as silent
PAST_AFTER = 86_400.0  # seconds, after which a worker that is gone is counted no more
ONLINE, SILENT, GONE, PAST = "online", "silent", "gone", "past"
STATES = (ONLINE, SILENT, GONE, PAST)
FRESH = 1.0  # seconds for which what was gathered by a walk over all is shown
ROWS, FIGURES = 5, 15  # workers in a slice, with all that a table shows and with what monitoring asks for: 0.3 ms
NO_WORKERS = (NOBODY, OTHER)  # accounts that are nobody's


def last_share(account: Account) -> float | None:
    """When its last good share came, Unix seconds."""
    news = account.news
    return news.last_share if news is not None and news.last_share is not None else account.total.last_share


def state_of(account: Account, now: float) -> str:
    """`now` is in Unix seconds. Whoever has just connected is given the time of a share."""
    if account.sessions:
        last = max(last_share(account) or 0.0, account.last_seen)  # of one that is connected: since when
        return ONLINE if now - last < SILENT_AFTER else SILENT
    return GONE if now - account.last_seen < PAST_AFTER and account.name not in NO_WORKERS else PAST


class WorkersView:
    """Plain data of the accounts and of the sessions that work for them.

    Pages of a table are made one after the other, under ``walking``: each holds a megabyte meanwhile.
    """

    def __init__(self, accounts: Accounts, sessions: Mapping[int, Session]) -> None:
        self._accounts, self._sessions = accounts, sessions
        self.walking = RLock()
        self._newest_of: dict[str, Session] = {}
        self._all_of: dict[str, list[Session]] = {}  # of who has several; few do, and the lists cost the collector
        self._states = dict.fromkeys(STATES, 0)
        self._gathering, self._gathered_at = RLock(), -math.inf

    # ------------------------------------------------------------------ all

    def states(self) -> dict[str, int]:
        """How many workers are online, silent, gone and past."""
        self._gather()
        return self._states

    def _gather(self) -> None:
        """Walk over all, once a second at most; whoever comes meanwhile waits."""
        with self._gathering:
            if monotonic() - self._gathered_at < FRESH:
                return
            newest_of: dict[str, Session] = {}
            all_of: dict[str, list[Session]] = {}
            for session in paced(list(self._sessions.values())):
                for worker in session.workers.values():
                    name = worker.account.name
                    if name in newest_of:
                        all_of.setdefault(name, [newest_of[name]]).append(session)
                    newest_of[name] = session
            unix = time()
            counts = Counter(state_of(account, unix) for account in paced(list(self._accounts.workers.values()))
                             if account.name not in NO_WORKERS)
            self._newest_of, self._all_of = newest_of, all_of
            self._states = {state: counts[state] for state in STATES}
            self._gathered_at = monotonic()

    def sessions_of(self, name: str) -> list[Session]:
        """The sessions that work for a worker, the oldest first."""
        self._gather()
        one = self._newest_of.get(name)
        sessions = self._all_of.get(name) or ([one] if one is not None else [])
        return [session for session in sessions if not session.gone]

    # ------------------------------------------------------------------ a page of them

    def page(self, sort: str, descending: bool, text: str, state: str, offset: int,
             limit: int) -> tuple[int, list[dict[str, Any]]]:
        """How many there are, and one page; see `pick`."""
        with self.walking:
            total, rows = self.pick(sort, descending, text, state, offset, limit)
            return total, list(rows)

    def pick(self, sort: str, descending: bool, text: str, state: str, offset: int,
             limit: int) -> tuple[int, Iterator[dict[str, Any]]]:
        """How many there are, and the rows of one page, made as they are asked for. `sort` is one of SORTS, `text` is
        searched in names and devices, `state` is one of STATES or empty."""
        self._gather()
        unix, text = time(), text.casefold()

        def matches() -> Iterator[Account]:
            for account in paced(list(self._accounts.workers.values())):
                if (not text or text in account.name.casefold() or text in self._device(account).casefold()) and (
                        not state or state_of(account, unix) == state):
                    yield account

        with self.walking:
            total, found = page(matches(), lambda account: SORTS[sort](self, account, unix), descending, offset, limit)
        return total, (self.row(account, unix) for account in paced(found, ROWS))

    def row(self, account: Account, unix: float) -> dict[str, Any]:
        """A worker in a line of the table; `unix` is the present."""
        accounts = self._accounts
        one = summary.summary(accounts, account, unix)
        told = one["accepted"] + one["rejected"]
        newest = self._newest(account)
        hourly = account.rates.series("24h", accounts.folded_at) if account.rates is not None else []
        return {
            "name": account.name, "state": state_of(account, unix), "sessions": account.sessions,
            "device": self._device(account), "hashrate": one["hashrate"], "hashrate_paid": one["hashrate_paid"],
            "accepted": one["accepted"], "rejected": one["rejected"],
            "reject_ratio": one["rejected"] / told if told else 0.0,
            "difficulty": (newest.tuner.difficulty or None) if newest is not None else None,
            "seconds_since_share": one["seconds_since_share"], "first_seen_unix": one["first_seen_unix"],
            "last_seen_unix": one["last_seen_unix"], "cadence_seconds": one["cadence_seconds"],
            "pool_latency_ms": one["pool_latency_ms"],
            "trend": [dif.hashrate(checked, seconds, accounts.diff1) for checked, seconds in hourly] or [0.0] * 24,
        }

    def _newest(self, account: Account) -> Session | None:
        return self._newest_of.get(account.name) if account.sessions else None

    def _device(self, account: Account) -> str:
        newest = self._newest(account)
        return newest.agent if newest is not None else ""

    # ------------------------------------------------------------------ one

    def one(self, name: str) -> dict[str, Any] | None:
        """All that is known of a worker; None where there is none of this name."""
        account = self._accounts.workers.get(name)
        if account is None:
            return None
        self._gather()
        unix = time()
        done = summary.summary(self._accounts, account, unix)
        return self.row(account, unix) | {
            key: done[key] for key in (
                "rejected_by_reason", "below_pool", "forwarded", "pool_accepted", "pool_rejected", "blocks",
                "difficulty_accepted", "pool_difficulty_accepted")} | {
            "session_items": [session_row(session) for session in self.sessions_of(name)[-100:]],
            "recent_shares": list(account.shares.latest(self._accounts.diff1)) if account.shares is not None else [],
        }

    def strongest(self, most: int) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """The figures of so many workers, the strongest of the last day first, and of the rest together (None: there is
        none). By the day, so that one that falls silent does not drop out at once."""
        unix = time()
        accounts = list(self._accounts.workers.values())
        _, first = page(accounts, lambda account: _rate(self, account, "24h"), True, 0, most)
        named = [self._figures(account, unix) for account in paced(first, FIGURES)]
        if len(accounts) <= len(first):
            return named, None
        shown = {account.name for account in first}
        rest: dict[str, Any] = {"worker": "other", "hashrate": 0.0, "hashrate_paid": 0.0, "accepted": 0, "rejected": 0,
                                "difficulty_accepted": 0.0, "seconds_since_share": None}
        for account in paced(accounts, FIGURES):
            if account.name not in shown:
                figures = self._figures(account, unix)
                for name in ("hashrate", "hashrate_paid", "accepted", "rejected", "difficulty_accepted"):
                    rest[name] += figures[name]
        return named, rest

    def _figures(self, account: Account, unix: float) -> dict[str, Any]:
        done, last = account.sum(), last_share(account)
        checked, paid = (account.rates.over("15m", self._accounts.folded_at, account.first_seen)
                         if account.rates is not None else (0.0, 0.0))
        return {"worker": account.name, "hashrate": dif.hashrate(checked, 1.0, self._accounts.diff1),
                "hashrate_paid": dif.hashrate(paid, 1.0, self._accounts.diff1), "accepted": done.accepted,
                "rejected": done.refused_total, "difficulty_accepted": done.accepted_work,
                "seconds_since_share": None if last is None else max(0.0, unix - last)}


# ---------------------------------------------------------------- orders

def _rate(view: WorkersView, account: Account, span: str) -> float:
    if account.rates is None:
        return 0.0
    return account.rates.over(span, view._accounts.folded_at, account.first_seen)[0]


def _told(account: Account) -> tuple[int, int]:
    """Shares accepted and refused."""
    total, news = account.total, account.news
    if news is None:
        return total.accepted, total.refused_total
    return total.accepted + news.accepted, total.refused_total + news.refused_total


def _ratio(account: Account) -> float:
    accepted, refused = _told(account)
    return refused / (accepted + refused) if accepted + refused else 0.0


def _held(view: WorkersView, account: Account) -> float:
    newest = view._newest(account)
    return newest.tuner.difficulty if newest is not None else 0.0


SORTS: dict[str, Callable[[WorkersView, Account, float], Any]] = {
    "name": lambda view, account, unix: account.name.casefold(),
    "state": lambda view, account, unix: STATES.index(state_of(account, unix)),
    "sessions": lambda view, account, unix: account.sessions,
    "hashrate_1m": lambda view, account, unix: _rate(view, account, "1m"),
    "hashrate_1h": lambda view, account, unix: _rate(view, account, "1h"),
    "hashrate_24h": lambda view, account, unix: _rate(view, account, "24h"),
    "accepted": lambda view, account, unix: _told(account)[0],
    "rejected": lambda view, account, unix: _told(account)[1],
    "reject_ratio": lambda view, account, unix: _ratio(account),
    "difficulty": lambda view, account, unix: _held(view, account),
    "device": lambda view, account, unix: view._device(account).casefold(),
    "last_share": lambda view, account, unix: last_share(account) or 0.0,
}


def session_row(session: Session) -> dict[str, Any]:
    """A session in a line of the table."""
    one = session.snapshot(monotonic())
    return {
        "id": one["id"], "address": one["ip"], "worker": one["worker"], "upstream_user": one["upstream_user"],
        "agent": one["agent"], "difficulty": one["diff"], "accepted": one["ok"], "rejected": one["bad"],
        "connected_seconds": one["connected_seconds"], "silent_seconds": one["silent_seconds"],
        "backlog_bytes": one["backlog_bytes"], "route": one["route"], "prefix": one["prefix"],
        "version_mask": one["version_mask"], "takes_extranonce": one["takes_extranonce"],
        "listener": one["listener"],
    }


SESSION_SORTS: dict[str, Callable[[Session], Any]] = {
    "id": lambda session: session.number,
    "address": lambda session: session.conn.peer,
    "worker": lambda session: session.worker_name.casefold(),
    "agent": lambda session: session.agent.casefold(),
    "difficulty": lambda session: session.tuner.difficulty,
    "accepted": lambda session: session.accepted,
    "rejected": lambda session: session.rejected,
    "connected_seconds": lambda session: -session.conn.opened_at,
    "silent_seconds": lambda session: -session.conn.last_heard,
    "backlog_bytes": lambda session: session.conn.backlog_bytes,
}


def pick_sessions(sessions: Mapping[int, Session], sort: str, descending: bool, text: str, worker: str, offset: int,
                  limit: int) -> tuple[int, Iterator[dict[str, Any]]]:
    """How many sessions there are, and the rows of one page, made as they are asked for; of one worker where that is
    not empty. `sort` is one of SESSION_SORTS, `text` is searched in names, addresses and agents."""
    text = text.casefold()

    def matches() -> Iterator[Session]:
        for session in paced(list(sessions.values())):
            if worker and all(one.account.name != worker for one in session.workers.values()):
                continue
            if not text or any(text in part.casefold()
                               for part in (session.worker_name, session.conn.peer, session.agent)):
                yield session

    total, found = page(matches(), SESSION_SORTS[sort], descending, offset, limit)
    return total, (session_row(session) for session in paced(found, ROWS))

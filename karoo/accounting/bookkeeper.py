"""Keeps the accounts: folds what is new every few seconds, and writes it to the ledger.

The ledger works in a thread of its own, so that no miner waits for a disk. What cannot be written is kept in memory
until it can: a full disk, a missing directory or a damaged file are loud warnings, and mining goes on.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable
from time import monotonic, time
from typing import IO, Any, TypeVar

from gevent.event import Event
from gevent.threadpool import ThreadPool

from karoo.accounting.account import MAX_WORKERS, Accounts
from karoo.accounting.deltas import Deltas
from karoo.accounting.faults import LedgerError, check_place
from karoo.accounting.ledger import Ledger, set_aside
from karoo.accounting.rates import LEVELS
from karoo.accounting.schema import Span
from karoo.pace import paced

log = logging.getLogger("karoo.accounts")

FOLD_EVERY = 15  # seconds; a bucket of the hashrates, and whole ones to a minute
AT_ONCE = 25  # accounts between two pauses: a share waits half a millisecond at most
MOST_MINUTES = 60  # that are kept apart while they cannot be written; beyond, the oldest are taken together
RETRY_EVERY = 30.0  # seconds between two tries to open a ledger
REPEAT_AFTER = 600.0  # seconds after which the same complaint is made again
PATIENCE = 10.0  # seconds that the end waits for the disk

# The rows from which the hashrates of a span are told after a restart; the last minute's is soon told anew.
FROM_ROWS: dict[str, Span] = {"15m": "minute", "1h": "minute", "24h": "hour"}

Found = TypeVar("Found")


class Bookkeeper:
    """Folds the accounts and owns the ledger. With an empty path nothing is written."""

    def __init__(self, accounts: Accounts, path: str, flush_every: float) -> None:
        self._accounts, self._path, self._flush_every = accounts, path, flush_every
        self._threads = ThreadPool(1)
        self._ledger: Ledger | None = None
        self._restored = False
        self._complete = not path  # all that was known before is in the accounts
        self._unwritten: dict[int, dict[str, Deltas]] = {}  # start of the minute -> worker -> what it did
        self._lock: IO[bytes] | None = None  # held as long as this process keeps the file
        self._folded_at = time()
        self._tried_at = self._flushed_at = monotonic()
        self._written_at: float | None = None
        self._fault, self._complained_at = "", 0.0
        self._running, self._stopping, self._stopped = False, Event(), Event()

    # ------------------------------------------------------------------ life

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        if self._path and self._ledger is None:
            self._open()
        while not self._stopping.wait(self._due() - time()):
            self._fold()
            if self._path and monotonic() >= self._flushed_at + self._flush_every:
                self._flush()
        self._fold()
        if self._path:
            self._flush(last=True)
            self._say_what_is_lost()
            self._drop_ledger()
        self._stopped.set()

    def _say_what_is_lost(self) -> None:
        """At the end: what could not be written is gone."""
        left = [news for batch in self._unwritten.values() for news in batch.values()]
        if left:
            shares, workers = sum(one.accepted for one in left), {name for batch in self._unwritten.values()
                                                                  for name in batch}
            log.error("%s: %d accepted shares of %d workers could not be written and ARE LOST FROM THE ACCOUNTS: %s",
                      self._path, shares, len(workers), self._fault)

    def change(self, flush_seconds: float) -> None:
        """Another time between two writes, from the next one on."""
        self._flush_every = flush_seconds

    def stop(self) -> None:
        """Write what is left; not longer than the disk deserves."""
        self._stopping.set()
        if self._running and not self._stopped.wait(PATIENCE):
            log.error("%s: the disk did not take the last accounts in %g s; they are lost", self._path, PATIENCE)
        if self._lock is not None:
            self._lock.close()

    def _due(self) -> float:
        """When to fold again: at full quarters of a minute, so that none is split, and before a flush."""
        now = time()
        quarter = (now // FOLD_EVERY + 1) * FOLD_EVERY
        flush_in = self._flushed_at + self._flush_every - monotonic()
        return min(quarter, now + max(0.0, flush_in)) if self._path else quarter

    @property
    def fault(self) -> str:
        """Why the accounts are not written; empty when they are."""
        return self._fault

    def snapshot(self) -> dict[str, Any]:
        """Its state as plain data."""
        return {"database": self._path or None, "fault": self._fault or None, "restored": self._complete,
                "seconds_since_write": None if self._written_at is None else round(monotonic() - self._written_at, 1)}

    # ------------------------------------------------------------------ folding

    def _fold(self) -> None:
        since, until = self._folded_at, time()
        if not 0 <= until - since < 120:
            since = until  # the clock was set, or the machine slept
        self._folded_at = until
        minute = int(since) // 60 * 60
        for name, news in paced(self._accounts.fold(since, until, until - monotonic()), AT_ONCE):
            if self._path:
                self._keep(minute, name, news)

    def _keep(self, minute: int, name: str, news: Deltas) -> None:
        """For the next write."""
        if minute not in self._unwritten and len(self._unwritten) >= MOST_MINUTES:
            minute = max(self._unwritten)
        batch = self._unwritten.setdefault(minute, {})
        if name in batch:
            batch[name].add(news)
        else:
            batch[name] = news

    # ------------------------------------------------------------------ writing

    def _flush(self, last: bool = False) -> None:
        """Write each minute that is not written yet, oldest first."""
        self._flushed_at = monotonic()
        if self._ledger is not None:
            try:
                self._call(self._ledger.check_place)
            except LedgerError as error:
                self._complain(str(error))
                self._drop_ledger()
                self._tried_at -= RETRY_EVERY
        if self._ledger is None and (last or self._flushed_at >= self._tried_at + RETRY_EVERY):
            self._open()
        if self._ledger is None:
            return
        for minute in sorted(self._unwritten):
            batch = self._unwritten.pop(minute)
            try:
                self._call(self._ledger.write, minute, batch)
            except Exception as error:  # nothing of it was written
                for name, news in batch.items():
                    self._keep(minute, name, news)
                if isinstance(error, LedgerError):
                    self._failed(error)
                    return
                raise
        try:
            self._call(self._ledger.prune, time())
        except LedgerError as error:
            self._failed(error)
            return
        self._written_at = monotonic()
        if self._fault:
            log.warning("%s: the accounts are written again, all that was counted meanwhile included", self._path)
            self._fault = ""

    def _call(self, work: Callable[..., Found], *args: Any) -> Found:
        """Let the thread do something that may wait for the disk; others go on meanwhile."""
        outcome = self._threads.apply(_attempt, (work, args))
        if isinstance(outcome, _Failure):
            raise outcome.error
        return outcome  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ opening

    def _open(self) -> None:
        self._tried_at = monotonic()
        try:
            if self._lock is None:
                self._lock = self._call(_locked, self._path)
            self._ledger = self._call(Ledger, self._path)
            if not self._restored:
                self._restore(self._ledger)
        except LedgerError as error:
            self._failed(error)
            if not self._restored:
                self._drop_ledger()  # nothing is written before it is known what was

    def _drop_ledger(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            self._call(ledger.close)

    def _failed(self, error: LedgerError) -> None:
        """Complain, loudly but not at every try; make room for a new file where this one is of no use."""
        self._complain(str(error))
        if error.damaged:
            self._drop_ledger()
            try:
                there = self._call(set_aside, self._path)
                log.error("%s: moved to %s; the accounts go on in a new file", self._path, there)
                self._ledger, self._restored = self._call(Ledger, self._path), True
                self._complete = True
            except LedgerError as worse:
                self._complain(str(worse))

    def _complain(self, text: str) -> None:
        if text != self._fault or monotonic() >= self._complained_at + REPEAT_AFTER:
            self._complained_at = monotonic()
            log.error("THE ACCOUNTS ARE NOT KEPT: %s. Mining goes on; what is counted meanwhile stays in memory", text)
        self._fault = text

    # ------------------------------------------------------------------ what was before

    def _restore(self, ledger: Ledger) -> None:
        """Totals and hashrates go on where the former process ended."""
        known, seen = self._call(ledger.totals), self._call(ledger.seen)
        rates = [(span, start, self._call(ledger.work, row, start, start + seconds))
                 for span, row in FROM_ROWS.items() for start, seconds in _buckets(span)]
        self._restored = True
        latest = sorted(known, key=lambda name: seen[name][1], reverse=True)
        for name in paced(latest, AT_ONCE):
            self._accounts.restore(name, known[name], *seen[name])
        if len(known) > MAX_WORKERS:
            log.info("%s knows %d workers; the page shows the latest %d", self._path, len(known), MAX_WORKERS)
        for span, start, done in rates:
            for name, checked, paid in paced(done, AT_ONCE):
                self._accounts.restore_rates(span, name, checked, paid, start)
        self._complete = True


def _buckets(span: str) -> list[tuple[int, int]]:
    """(start, seconds) of each of a span's buckets at the present time, oldest first."""
    seconds, count = LEVELS[span]
    newest = int(time() // seconds)
    return [(bucket * seconds, seconds) for bucket in range(newest - count + 1, newest + 1)]


def _locked(path: str) -> IO[bytes]:
    """A file beside the ledger, locked for as long as it is open: two writers would each know half of the truth.

    The system gives the lock back when the process ends, however that comes. Raises LedgerError.
    """
    check_place(path, new=True)
    try:
        lock = open(f"{path}.lock", "ab")  # noqa: SIM115  (closed at the end)
    except OSError as error:
        raise LedgerError(path, f"{path}.lock cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise LedgerError(path, "is kept by another proxy that runs; give each its own accounting.database") from None
    return lock


class _Failure:
    """What went wrong in the thread, brought over as a value: gevent would print the traceback of an exception."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _attempt(work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return work(*args)
    except Exception as error:
        return _Failure(error)

"""The ledger: what each worker did, by minute, hour and day, in an SQLite file. Synchronous, one call at a time.

Every call may wait for the disk: whoever must not wait makes it from another thread. Of two calls at the same time
on one object nothing is promised.

The tables are keyed by (start of the span, worker), so that a batch is written, and old rows are pruned, in one
place of the file each; a span has a table of its own, so that its newest rows stand at the table's end. What was
refused is rare and has tables beside them. A batch goes first into tables in memory and from there, in one statement
a table, into the file: SQLite works without Python's lock meanwhile.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal
from urllib.parse import quote

Span = Literal["minute", "hour", "day"]

STEPS: dict[Span, int] = {"minute": 60, "hour": 3600, "day": 86_400}  # seconds; every start is a multiple, in UTC
KEPT: dict[Span, int] = {"minute": 48 * 3600, "hour": 366 * 86_400}  # seconds; days for ever
Table = Literal["minute", "hour", "day", "life"]
TABLES: tuple[Table, ...] = ("minute", "hour", "day", "life")  # the last: one row a worker, whose start is 0
PRUNED_AT_ONCE = 20_000  # rows of each table; twice what 10,000 workers add in a minute
MAX_CACHED = 100_000  # names whose ids are kept in memory
BUSY = 5.0  # seconds that another program may keep the file locked
APPLICATION = 0x4B61726F  # tells this kind of file from any other database (PRAGMA application_id)
STALE = "stale"

_SUMS = ("accepted", "answered_here", "forwarded", "pool_accepted", "work", "pool_work", "blocks",
         "latency_count", "latency_sum", "gaps", "gap_sum", "gap_squares")
_COLUMNS = (*_SUMS, "first_share", "last_share")
_values = attrgetter(*_COLUMNS)


@dataclass(slots=True)
class Deltas:
    """What one worker did in some time. Work is difficulty, times are seconds, shares' times Unix seconds."""

    accepted: int = 0  # told true: answered here, or taken by the pool
    answered_here: int = 0
    forwarded: int = 0
    pool_accepted: int = 0
    work: float = 0.0  # accepted, as judged here
    pool_work: float = 0.0  # taken by the pool, as it pays for it
    blocks: int = 0
    latency_count: int = 0  # verdicts of the pool, and the sum of the waits for them
    latency_sum: float = 0.0
    gaps: int = 0  # intervals between accepted shares, their sum and the sum of their squares
    gap_sum: float = 0.0
    gap_squares: float = 0.0
    first_share: float | None = None
    last_share: float | None = None
    refused: dict[str, int] = field(default_factory=dict)  # by reason, the pool's as "pool: …"

    def add(self, other: Deltas) -> None:
        """Take in what the same worker did at another time."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.first_share is not None and (self.first_share is None or other.first_share < self.first_share):
            self.first_share = other.first_share
        if other.last_share is not None and (self.last_share is None or other.last_share > self.last_share):
            self.last_share = other.last_share
        for reason, count in other.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count

    @property
    def refused_total(self) -> int:
        return sum(self.refused.values())

    @property
    def stale(self) -> int:
        """Shares for work that was over, by the proxy's verdict or by the pool's (code 21)."""
        return sum(count for reason, count in self.refused.items()
                   if reason == STALE or reason.startswith("pool: 21"))

    @property
    def cadence(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the interval between accepted shares, in seconds; None without one."""
        if not self.gaps:
            return None
        mean = self.gap_sum / self.gaps
        return mean, math.sqrt(max(0.0, self.gap_squares / self.gaps - mean * mean))

    @property
    def latency(self) -> float | None:
        """Mean wait for the pool's verdict, in seconds."""
        return self.latency_sum / self.latency_count if self.latency_count else None


class LedgerError(Exception):
    """The file cannot be used; the text names it, the cause and the cure. `damaged`: what is in it is of no use, and
    `set_aside` makes room for a new one."""

    def __init__(self, path: str, text: str, damaged: bool = False) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path
        self.damaged = damaged


# ---------------------------------------------------------------- the schema

_NUMBERS = ", ".join(f"{name} {'REAL' if Deltas.__annotations__[name] == 'float' else 'INTEGER'} NOT NULL"
                     for name in _SUMS)

# Each entry leads from one version of the schema to the next and runs in a transaction of its own. Never change one
# that was released: append another.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE workers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL)",
        *(f"CREATE TABLE {table} (start INTEGER NOT NULL, worker INTEGER NOT NULL, {_NUMBERS},"
          " first_share REAL, last_share REAL, PRIMARY KEY (start, worker)) WITHOUT ROWID" for table in TABLES),
        *(f"CREATE TABLE {table}_refused (start INTEGER NOT NULL, worker INTEGER NOT NULL, reason TEXT NOT NULL,"
          " count INTEGER NOT NULL, PRIMARY KEY (start, worker, reason)) WITHOUT ROWID" for table in TABLES),
    ),
)

# What a batch passes through, in memory.
_STAGES = (
    f"CREATE TEMP TABLE batch (worker, {', '.join(_COLUMNS)})",
    "CREATE TEMP TABLE batch_refused (worker, reason, count)",
)
_STAGE = f"INSERT INTO batch VALUES (?{', ?' * len(_COLUMNS)})"
_POST = (
    f"INSERT INTO {{table}} (start, worker, {', '.join(_COLUMNS)}) SELECT ?, * FROM batch ORDER BY worker"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _SUMS)},"
    # MIN and MAX of a NULL and a number are NULL
    " first_share = MIN(IFNULL(first_share, excluded.first_share), IFNULL(excluded.first_share, first_share)),"
    " last_share = MAX(IFNULL(last_share, excluded.last_share), IFNULL(excluded.last_share, last_share))")
_POST_REFUSED = (
    "INSERT INTO {table}_refused (start, worker, reason, count) SELECT ?, * FROM batch_refused ORDER BY worker"
    " ON CONFLICT DO UPDATE SET count = count + excluded.count")


class Reader:
    """Reads a ledger, also while another process writes it. Made by `open_reader`; every method raises LedgerError."""

    def __init__(self, path: str, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db

    def close(self) -> None:
        self._db.close()

    def totals(self) -> dict[str, Deltas]:
        """All that each worker ever did."""
        return self._sums("life", 0, 1)

    def sums(self, span: Span, start: float, end: float, worker: str | None = None) -> dict[str, Deltas]:
        """What each worker did in the spans that begin in [start, end), Unix seconds."""
        return self._sums(span, start, end, worker)

    def rows(self, span: Span, start: float, end: float,
             worker: str | None = None) -> Iterator[tuple[int, str, Deltas]]:
        """(start, worker, what it did) of each span that begins in [start, end), oldest first.

        No transaction stays open between two spans, however slow the taker is.
        """
        while True:
            with self._transaction("BEGIN"):
                (found,) = self._db.execute(f"SELECT MIN(start) FROM {span} WHERE start >= ? AND start < ?",
                                            (start, end)).fetchone()
            if found is None:
                return
            for name, deltas in self._sums(span, found, found + 1, worker).items():
                yield found, name, deltas
            start = found + 1

    def recent(self, since: int) -> Iterator[tuple[int, str, Deltas]]:
        """(minute, worker, what it did) of each minute from `since` on, oldest first."""
        return self.rows("minute", since, math.inf)

    def seen(self) -> dict[str, tuple[int, int]]:
        """The first and the last minute (its start, Unix seconds) in which each worker was accounted."""
        with self._transaction("BEGIN"):
            return {name: (first, last) for name, first, last
                    in self._db.execute("SELECT name, first_seen, last_seen FROM workers")}

    def _sums(self, table: Table, start: float, end: float, worker: str | None = None) -> dict[str, Deltas]:
        where = "WHERE start >= ? AND start < ?"
        given: list[object] = [start, end]
        if worker is not None:
            where += " AND worker = (SELECT id FROM workers WHERE name = ?)"
            given.append(storable(worker))
        columns = ", ".join(f"SUM({name}) AS {name}" for name in _SUMS)
        with self._transaction("BEGIN"):  # both statements see the same state
            found = {number: (name, Deltas(*values)) for number, name, *values in self._db.execute(
                f"SELECT id, name, {', '.join(_COLUMNS)} FROM (SELECT worker, {columns},"
                f" MIN(first_share) AS first_share, MAX(last_share) AS last_share FROM {table} {where}"
                " GROUP BY worker) JOIN workers ON id = worker", given)}
            for number, reason, count in self._db.execute(
                    f"SELECT worker, reason, SUM(count) FROM {table}_refused {where} GROUP BY worker, reason", given):
                if number in found:
                    found[number][1].refused[reason] = count
        return dict(found.values())

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        """All or nothing of what is done inside; SQLite's errors come out as LedgerError."""
        try:
            self._db.execute(begin)
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            try:
                if self._db.in_transaction:  # some errors end it by themselves
                    self._db.execute("ROLLBACK")
            except sqlite3.Error:
                pass
            if isinstance(error, sqlite3.Error):
                raise _explained(self.path, error) from error
            raise


class Ledger(Reader):
    """The one writer. Makes the file where there is none and brings an older schema up to date.

    Raises LedgerError; so does every method, and then nothing was written.
    """

    def __init__(self, path: str) -> None:
        _check_place(path, new=True)
        try:
            db = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _explained(path, error) from error
        super().__init__(path, db)
        self._ids: dict[str, int] = {}
        try:
            version = _version(path, db)
            # A commit appends to the write-ahead log and waits for no disk. A process that is killed loses nothing
            # of it; a power cut may lose the last commits, but never halves of them: the log carries checksums and
            # is synced before it is carried over into the file.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 67108864")  # of bytes kept when a long read let the log grow
            db.execute("PRAGMA temp_store = MEMORY")
            self._migrate(version)
            for statement in _STAGES:
                db.execute(statement)
        except BaseException as error:
            db.close()
            if isinstance(error, sqlite3.Error):
                raise _explained(path, error) from error
            raise

    def _migrate(self, version: int) -> None:
        for number in range(version + 1, len(MIGRATIONS) + 1):
            with self._transaction("BEGIN IMMEDIATE"):
                if _version(self.path, self._db) >= number:
                    continue  # another process was faster
                for statement in MIGRATIONS[number - 1]:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {number}")

    def write(self, minute: int, batch: Mapping[str, Deltas]) -> None:
        """Add what each worker did in (or since) a minute to its minute, hour, day and lifetime: all of it or,
        where this raises, nothing. `minute` is the Unix time of its start.

        Control characters in names and reasons are kept as `storable` writes them.
        """
        if minute % 60:
            raise ValueError(f"{minute} is not the start of a minute")
        if not batch:
            return
        try:
            with self._transaction("BEGIN IMMEDIATE"):
                self._stage(minute, batch)
                for table in TABLES:
                    start = 0 if table == "life" else minute - minute % STEPS[table]
                    self._db.execute(_POST.format(table=table), (start,))
                    self._db.execute(_POST_REFUSED.format(table=table), (start,))
                self._db.execute(
                    "UPDATE workers SET first_seen = MIN(first_seen, ?), last_seen = MAX(last_seen, ?)"
                    " WHERE id IN (SELECT worker FROM batch)", (minute, minute))
                self._db.execute("DELETE FROM batch")
                self._db.execute("DELETE FROM batch_refused")
        except BaseException:
            self._ids.clear()  # those of new workers went with the transaction
            raise

    def _stage(self, minute: int, batch: Mapping[str, Deltas]) -> None:
        """Put a batch into the tables in memory."""
        if len(self._ids) + len(batch) > MAX_CACHED:
            self._ids.clear()
        known = [(self._ids.get(name) or self._worker(name, minute), deltas) for name, deltas in batch.items()]
        self._db.executemany(_STAGE, [(number, *_values(deltas)) for number, deltas in known])
        self._db.executemany("INSERT INTO batch_refused VALUES (?, ?, ?)",
                             [(number, storable(reason), count) for number, deltas in known
                              for reason, count in deltas.refused.items()])

    def _worker(self, name: str, minute: int) -> int:
        """The id of a worker, new or not."""
        text = storable(name)
        row = self._db.execute("SELECT id FROM workers WHERE name = ?", (text,)).fetchone()
        if row is None:
            row = (self._db.execute("INSERT INTO workers (name, first_seen, last_seen) VALUES (?, ?, ?)",
                                    (text, minute, minute)).lastrowid,)
        self._ids[name] = row[0]
        return self._ids[name]

    def prune(self, now: float) -> int:
        """Delete rows that are kept no longer, at most PRUNED_AT_ONCE of each table, so that it never takes long;
        how many went. What is left goes with the next call. The file does not shrink: its room is used again."""
        gone = 0
        for span in KEPT:
            oldest = kept_since(span, now)
            for table, key in ((span, "start, worker"), (f"{span}_refused", "start, worker, reason")):
                with self._transaction("BEGIN IMMEDIATE"):
                    gone += self._db.execute(
                        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE start < ?"
                        f" ORDER BY {key} LIMIT {PRUNED_AT_ONCE})", (oldest,)).rowcount
        return gone


def open_reader(path: str) -> Reader:
    """Open a ledger for reading only, whether or not a proxy writes it. Raises LedgerError."""
    _check_place(path, new=False)
    # Beside a file that nobody has open, SQLite makes a log even to read. Where it must not, the file is read as
    # one that nobody changes.
    alone = not os.path.exists(f"{path}-wal") and not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK)
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro{'&immutable=1' if alone else ''}"
    db = None
    try:
        db = sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False)
        version = _version(path, db)
        if version < len(MIGRATIONS):
            raise LedgerError(path, f"its schema is of version {version}, and {len(MIGRATIONS)} is read here; "
                                    "start the proxy once, which brings it up to date")
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, sqlite3.Error):
            raise _explained(path, error) from error
        raise
    return Reader(path, db)


def set_aside(path: str) -> str:
    """Move a damaged ledger to `<path>.damaged-<Unix time>`, so that a new one can be begun; its new name.

    Close the ledger first. Raises LedgerError where the file system refuses.
    """
    stem = there = f"{path}.damaged-{int(time.time())}"
    number = 1
    while os.path.lexists(there):
        number += 1
        there = f"{stem}-{number}"
    try:
        # The log goes first: left behind, it would be taken for that of the new file.
        for suffix in ("-wal", "-shm", ""):
            if suffix == "" or os.path.lexists(path + suffix):
                os.rename(path + suffix, there + suffix)
    except OSError as error:
        raise LedgerError(path, f"cannot be moved to {there} ({error.strerror}); move it by hand", True) from error
    return there


def kept_since(span: Span, now: float) -> int:
    """The oldest start whose row of this span `prune` leaves (Unix seconds)."""
    if span not in KEPT:
        return 0
    step = STEPS[span]
    return int(now - KEPT[span]) // step * step


def storable(text: str) -> str:
    """The text as SQLite keeps it and gives it back: without NULs and half surrogates."""
    if text.isprintable():
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


# ---------------------------------------------------------------- what can be wrong with a file

def _version(path: str, db: sqlite3.Connection) -> int:
    """The version of the schema, 0 for an empty file. Raises LedgerError where it is none of ours."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        if db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise LedgerError(path, "is the database of another program; name another file for the accounts")
        return 0
    if version > len(MIGRATIONS):
        raise LedgerError(path, f"was written by a newer Karoo (schema {version}, known here is {len(MIGRATIONS)}); "
                                "install that version, or name another file for the accounts")
    return int(version)


def _check_place(path: str, new: bool) -> None:
    """Say plainly what SQLite would call "unable to open database file"."""
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise LedgerError(path, f"the directory {directory} does not exist; make it, or name another file")
    if os.path.isdir(path):
        raise LedgerError(path, "is a directory; name a file in it")
    if not os.path.exists(path):
        if not new:
            raise LedgerError(path, "there is no such file; the proxy makes it when it starts: is this the right name?")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise LedgerError(path, f"the directory {directory} may not be written; "
                                    "give it to the user that Karoo runs as")
    elif not os.access(path, os.R_OK):
        raise LedgerError(path, "may not be read; give it to the user that Karoo runs as")


# What SQLite says, and what it means: a part of its text, our sentence, whether the file is of no use.
_MEANINGS = (
    ("not a database", "is damaged, or no database at all; move it away, and a new one is begun", True),
    ("malformed", "is damaged; move it away, and a new one is begun", True),
    ("is full", "the disk is full; make room on it", False),
    ("readonly", "may not be written; give it and its directory to the user that Karoo runs as", False),
    ("unable to open", "cannot be opened; give it and its directory to the user that Karoo runs as", False),
    ("locked", f"another program has kept it locked for {BUSY:g} s; end that program", False),
    ("disk I/O", "the disk failed; see the system's log", False),
)


def _explained(path: str, error: sqlite3.Error) -> LedgerError:
    """SQLite's error in words that help. (Its codes are not to be had in Python 3.10.)"""
    text = str(error)
    for part, meaning, damaged in _MEANINGS:
        if part in text:
            return LedgerError(path, f"{meaning} ({text})", damaged)
    return LedgerError(path, text)

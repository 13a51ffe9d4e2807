"""The ledger: what each worker did, by minute, hour and day, in an SQLite file. Synchronous, one call at a time.

Every call may wait for the disk: whoever must not wait makes it from another thread. Of two calls at the same time
on one object nothing is promised.

The tables are keyed by (start of the span, worker), so that a batch is written, and old rows are pruned, in one
place of the file each; a span has a table of its own, so that its newest rows stand at the table's end. What was
refused is rare and has tables beside them. A batch goes first into tables in memory and from there, in one statement
a table, into the file: SQLite works without Python's lock meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from karoo.accounting import schema
from karoo.accounting.deltas import COLUMNS, SUMS, Deltas
from karoo.accounting.faults import APPLICATION, BUSY, LedgerError, check_place, explained
from karoo.accounting.schema import (
    KEPT,
    POST,
    POST_FARM,
    POST_REFUSED,
    ROW,
    STAGE,
    STAGES,
    STEPS,
    TABLES,
    Span,
    Table,
    version_of,
)

PRUNED_AT_ONCE = 20_000  # rows of each table; twice what 10,000 workers add in a minute
STAGED_AT_ONCE = 50  # rows
MAX_CACHED = 100_000  # names whose ids are kept in memory

_values = attrgetter(*COLUMNS)


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

    def work(self, span: Span, start: float, end: float) -> list[tuple[str, float, float]]:
        """(worker, checked difficulty, paid difficulty) over the spans that begin in [start, end)."""
        with self._transaction("BEGIN"):
            return self._db.execute(
                f"SELECT name, checked, paid FROM (SELECT worker, SUM(here_work + forwarded_work) AS checked,"
                f" SUM(pool_work) AS paid FROM {span} WHERE start >= ? AND start < ? GROUP BY worker)"
                " JOIN workers ON id = worker", (start, end)).fetchall()

    def seen(self) -> dict[str, tuple[int, int]]:
        """The first and the last minute (its start, Unix seconds) in which each worker was accounted."""
        with self._transaction("BEGIN"):
            return {name: (first, last) for name, first, last
                    in self._db.execute("SELECT name, first_seen, last_seen FROM workers")}

    def query(self, statement: str, given: Sequence[object]) -> list[Any]:
        """All rows that a SELECT finds."""
        with self._transaction("BEGIN"):
            return self._db.execute(statement, given).fetchall()

    def _sums(self, table: Table, start: float, end: float, worker: str | None = None) -> dict[str, Deltas]:
        where = "WHERE start >= ? AND start < ?"
        given: list[object] = [start, end]
        if worker is not None:
            where += " AND worker = (SELECT id FROM workers WHERE name = ?)"
            given.append(storable(worker))
        columns = ", ".join(f"SUM({name}) AS {name}" for name in SUMS)
        with self._transaction("BEGIN"):  # both statements see the same state
            found = {number: (name, Deltas(*values)) for number, name, *values in self._db.execute(
                f"SELECT id, name, {', '.join(COLUMNS)} FROM (SELECT worker, {columns},"
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
                raise explained(self.path, error) from error
            raise


class Ledger(Reader):
    """The one writer. Makes the file where there is none and brings an older schema up to date.

    Raises LedgerError; so does every method, and then nothing was written.
    """

    def __init__(self, path: str) -> None:
        check_place(path, new=True)
        try:
            db = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise explained(path, error, opened=False) from error
        super().__init__(path, db)
        self._ids: dict[str, int] = {}
        try:
            version = version_of(path, db)
            # A commit appends to the write-ahead log and waits for no disk. A process that is killed loses nothing
            # of it; a power cut may lose the last commits, but never halves of them: the log carries checksums and
            # is synced before it is carried over into the file.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 67108864")  # of bytes kept when a long read let the log grow
            db.execute("PRAGMA temp_store = MEMORY")
            self._migrate(version)
            for statement in STAGES:
                db.execute(statement)
            if version == 0:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the file itself tells from now on that it is ours
            self._place = _place_of(path)
        except BaseException as error:
            db.close()
            if isinstance(error, sqlite3.Error):
                raise explained(path, error, opened=False) from error
            raise

    def check_place(self) -> None:
        """Raises LedgerError where the file is not under its name any more: what is written would be lost."""
        if _place_of(self.path) != self._place:
            raise LedgerError(self.path, "was removed or replaced while it was in use; a new one is begun")

    def _migrate(self, version: int) -> None:
        for number in range(version + 1, len(schema.MIGRATIONS) + 1):
            with self._transaction("BEGIN IMMEDIATE"):
                if version_of(self.path, self._db) >= number:
                    continue  # another process was faster
                for statement in schema.MIGRATIONS[number - 1]:
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
                    self._db.execute(POST.format(table=table), (start,))
                    self._db.execute(POST_REFUSED.format(table=table), (start,))
                for step in STEPS.values():
                    self._db.execute(POST_FARM, (step, minute - minute % step))
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
        for first in range(0, len(known), STAGED_AT_ONCE):
            rows = [(number, *_values(deltas)) for number, deltas in known[first:first + STAGED_AT_ONCE]]
            # Many rows in one statement: Python's lock, which the miners' thread wants, changes hands once for all.
            self._db.execute(STAGE + f", {ROW}" * (len(rows) - 1), list(chain.from_iterable(rows)))
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
            with self._transaction("BEGIN IMMEDIATE"):
                self._db.execute("DELETE FROM farm WHERE step = ? AND start < ?", (STEPS[span], oldest))
        return gone


def open_reader(path: str) -> Reader:
    """Open a ledger for reading only, whether or not a proxy writes it. Raises LedgerError."""
    check_place(path, new=False)
    # Beside a file that nobody has open, SQLite makes a log even to read. Where it must not, the file is read as
    # one that nobody changes.
    alone = not os.path.exists(f"{path}-wal") and not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK)
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro{'&immutable=1' if alone else ''}"
    db = None
    try:
        db = sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False)
        version = version_of(path, db)
        if version < len(schema.MIGRATIONS):
            raise LedgerError(path, f"its schema is of version {version}, and {len(schema.MIGRATIONS)} is read here; "
                                    "start the proxy once, which brings it up to date")
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, sqlite3.Error):
            raise explained(path, error, opened=False) from error
        raise
    return Reader(path, db)


def _place_of(path: str) -> tuple[int, int] | None:
    """Which file a path leads to."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


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



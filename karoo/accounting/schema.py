"""The ledger's tables, and how an older file gets them."""

from __future__ import annotations

import sqlite3
from typing import Literal

from karoo.accounting.deltas import COLUMNS, SUMS
from karoo.accounting.faults import APPLICATION, LedgerError

Span = Literal["minute", "hour", "day"]

STEPS: dict[Span, int] = {"minute": 60, "hour": 3600, "day": 86_400}  # seconds; every start is a multiple, in UTC
KEPT: dict[Span, int] = {"minute": 48 * 3600, "hour": 366 * 86_400}  # seconds; days for ever
Table = Literal["minute", "hour", "day", "life"]
TABLES: tuple[Table, ...] = ("minute", "hour", "day", "life")  # the last: one row a worker, whose start is 0

# As the first version has them; what Deltas gains later comes with a migration of its own.
_NUMBERS_1 = ", ".join(f"{kind} NOT NULL" for kind in (
    "answered_here INTEGER", "here_work REAL", "forwarded INTEGER", "forwarded_work REAL", "pool_accepted INTEGER",
    "taken_work REAL", "pool_work REAL", "pool_refused INTEGER", "pool_refused_work REAL", "blocks INTEGER",
    "latency_count INTEGER", "latency_sum REAL", "gaps INTEGER", "gap_sum REAL", "gap_squares REAL"))

# What all workers did together, for curves: read from the tables above it would take seconds for a day of 10,000.
FARM_SUMS = ("SUM(here_work + forwarded_work)", "SUM(pool_work)", "SUM(answered_here + pool_accepted)",
              "SUM(latency_count)", "SUM(latency_sum)")
FARM = ("checked_work", "pool_work", "accepted", "latency_count", "latency_sum", "refused")

# Each entry leads from one version of the schema to the next and runs in a transaction of its own. Never change one
# that was released: append another.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE workers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL)",
        *(f"CREATE TABLE {table} (start INTEGER NOT NULL, worker INTEGER NOT NULL, {_NUMBERS_1},"
          " first_share REAL, last_share REAL, PRIMARY KEY (start, worker)) WITHOUT ROWID" for table in TABLES),
        *(f"CREATE TABLE {table}_refused (start INTEGER NOT NULL, worker INTEGER NOT NULL, reason TEXT NOT NULL,"
          " count INTEGER NOT NULL, PRIMARY KEY (start, worker, reason)) WITHOUT ROWID" for table in TABLES),
    ),
    (
        "CREATE TABLE farm (step INTEGER NOT NULL, start INTEGER NOT NULL, checked_work REAL NOT NULL,"
        " pool_work REAL NOT NULL, accepted INTEGER NOT NULL, latency_count INTEGER NOT NULL,"
        " latency_sum REAL NOT NULL, refused INTEGER NOT NULL, PRIMARY KEY (step, start)) WITHOUT ROWID",
        *(f"INSERT INTO farm SELECT {step}, start, {', '.join(FARM_SUMS)}, 0 FROM {table} GROUP BY start"
          for table, step in STEPS.items()),
        *(f"UPDATE farm SET refused = (SELECT IFNULL(SUM(count), 0) FROM {table}_refused AS one"
          f" WHERE one.start = farm.start) WHERE step = {step}" for table, step in STEPS.items()),
    ),
)

# What a batch passes through, in memory.
STAGES = (
    f"CREATE TEMP TABLE batch (worker, {', '.join(COLUMNS)})",
    "CREATE TEMP TABLE batch_refused (worker, reason, count)",
)
ROW = f"(?{', ?' * len(COLUMNS)})"
STAGE = f"INSERT INTO batch VALUES {ROW}"
POST = (
    f"INSERT INTO {{table}} (start, worker, {', '.join(COLUMNS)}) SELECT ?, * FROM batch ORDER BY worker"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in SUMS)},"
    # MIN and MAX of a NULL and a number are NULL
    " first_share = MIN(IFNULL(first_share, excluded.first_share), IFNULL(excluded.first_share, first_share)),"
    " last_share = MAX(IFNULL(last_share, excluded.last_share), IFNULL(excluded.last_share, last_share))")
POST_REFUSED = (
    "INSERT INTO {table}_refused (start, worker, reason, count) SELECT ?, * FROM batch_refused ORDER BY worker"
    " ON CONFLICT DO UPDATE SET count = count + excluded.count")
POST_FARM = (
    f"INSERT INTO farm SELECT ?, ?, {', '.join(FARM_SUMS)}, (SELECT IFNULL(SUM(count), 0) FROM batch_refused)"
    f" FROM batch WHERE TRUE"
    f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in FARM)}")


def version_of(path: str, db: sqlite3.Connection) -> int:
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

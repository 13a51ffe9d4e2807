"""Curves from the ledger: what one worker, or all together, did by time. Synchronous: from a thread.

Times are Unix seconds; a point is [start of its bucket, value], its value None where nothing was accounted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from karoo.accounting.ledger import Reader, storable
from karoo.accounting.schema import FARM, FARM_SUMS, STEPS, Span
from karoo.stratum import difficulty as dif


@dataclass(slots=True, frozen=True)
class Range:
    """How far back, which rows of the ledger, and the seconds of a point."""

    seconds: int
    span: Span
    step: int


RANGES = {
    "1h": Range(3600, "minute", 60),
    "24h": Range(86_400, "minute", 300),
    "7d": Range(7 * 86_400, "hour", 3600),
    "30d": Range(30 * 86_400, "hour", 4 * 3600),
    "1y": Range(365 * 86_400, "day", 86_400),
}
UNITS = {"hashrate": "H/s", "hashrate_paid": "H/s", "accepted": "shares", "rejected": "shares", "latency": "ms"}
YOUNG = 7200.0  # seconds of accounts below which a day is shown by minutes, so that there is something to see
_NOTHING = (0.0, 0.0, 0, 0, 0.0, 0)

Point = tuple[int, float | None]
_Rows = dict[int, tuple[Any, ...]]  # by start of the bucket: the columns of schema.FARM, in their order


def series(reader: Reader, metric: str, asked: str, now: float, worker: str | None,
           diff1: int) -> tuple[int, list[Point]]:
    """The seconds of a point, and the points of a metric over a range, oldest first.

    They begin with the first that was accounted on, of which only the part counts that was; a worker's is 0 where
    others worked and it did not. Raises LedgerError.
    """
    [(number, first_seen)] = reader.query("SELECT 0, MIN(first_seen) FROM workers", ()) if worker is None else (
        reader.query("SELECT id, first_seen FROM workers WHERE name = ?", (storable(worker),)) or [(0, None)])
    extent = RANGES[asked]
    if asked == "24h" and first_seen is not None and now - first_seen < YOUNG:
        extent = Range(extent.seconds, "minute", 60)
    end = int(now) // extent.step * extent.step + extent.step
    start = end - extent.seconds
    everybody = _rows_of_all(reader, extent, start, end)
    rows = everybody if worker is None else _rows_of(reader, extent, start, end, number)
    if not rows or first_seen is None:
        return extent.step, []
    points: list[Point] = []
    for at in range(max(start, first_seen // extent.step * extent.step), end, extent.step):
        row = rows.get(at) or (_NOTHING if at in everybody else None)
        over = min(at + extent.step, now)
        if over == at + extent.step or (over - at >= 600 and row):  # of a shorter one the most would be missing
            points.append((at, _value(metric, row, over - max(at, first_seen), diff1) if row else None))
    return extent.step, points


def _rows_of_all(reader: Reader, extent: Range, start: int, end: int) -> _Rows:
    found = reader.query(
        f"SELECT start / ? * ?, {', '.join(f'SUM({column})' for column in FARM)} FROM farm"
        " WHERE step = ? AND start >= ? AND start < ? GROUP BY 1",
        (extent.step, extent.step, STEPS[extent.span], start, end))
    return {at: tuple(values) for at, *values in found}


def _rows_of(reader: Reader, extent: Range, start: int, end: int, number: int) -> _Rows:
    """Of the worker with this number. The rows are keyed by start and worker: each start is looked up by itself, since
    among 10,000 workers a day has fourteen million rows."""
    own = STEPS[extent.span]
    starts = "WITH RECURSIVE starts(at) AS (SELECT ? UNION ALL SELECT at + ? FROM starts WHERE at + ? < ?)"
    given = (start, own, own, end, extent.step, extent.step, number)
    rows: _Rows = {at: (*values, 0) for at, *values in reader.query(
        f"{starts} SELECT at / ? * ?, {', '.join(FARM_SUMS)} FROM starts CROSS JOIN {extent.span}"
        " ON start = at AND worker = ? GROUP BY 1", given)}
    for at, refused in reader.query(
            f"{starts} SELECT at / ? * ?, SUM(count) FROM starts CROSS JOIN {extent.span}_refused"
            " ON start = at AND worker = ? GROUP BY 1", given):
        rows[at] = (*rows.get(at, _NOTHING)[:-1], refused)
    return rows


def _value(metric: str, row: Sequence[Any], seconds: float, diff1: int) -> float | None:
    """`row` has the columns of schema.FARM; `seconds` are those that it is about."""
    checked, paid, accepted, waits, waited, refused = row
    if metric == "hashrate":
        return dif.hashrate(checked, seconds, diff1)
    if metric == "hashrate_paid":
        return dif.hashrate(paid, seconds, diff1)
    if metric == "accepted":
        return float(accepted)
    if metric == "rejected":
        return float(refused)
    return waited / waits * 1e3 if waits else None

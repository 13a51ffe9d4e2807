"""Curves from the ledger: what one worker, or all together, did by time. Synchronous: from a thread.

Times are Unix seconds; a point is [start of its bucket, value], its value None where nothing was accounted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from karoo.accounting.ledger import Reader, storable
from karoo.accounting.schema import STEPS, Span
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
_WORKER_SUMS = ("SUM(here_work + forwarded_work)", "SUM(pool_work)", "SUM(answered_here + pool_accepted)",
                "SUM(latency_count)", "SUM(latency_sum)")

Point = tuple[int, float | None]


def series(reader: Reader, metric: str, asked: str, now: float, worker: str | None, diff1: int) -> list[Point]:
    """The points of a metric over a range, oldest first; from the first that was accounted on, of which only the part
    counts that was. Raises LedgerError."""
    extent = RANGES[asked]
    end = int(now) // extent.step * extent.step + extent.step
    start = end - extent.seconds
    if worker is None:
        found = reader.query(
            "SELECT start / ? * ?, SUM(checked_work), SUM(pool_work), SUM(accepted), SUM(latency_count),"
            " SUM(latency_sum), SUM(refused), MIN(start) FROM farm"
            " WHERE step = ? AND start >= ? AND start < ? GROUP BY 1",
            (extent.step, extent.step, STEPS[extent.span], start, end))
        rows = {at: tuple(values) for at, *values in found}
    else:
        rows = _rows_of(reader, extent, start, end, worker)
    if not rows:
        return []
    points: list[Point] = []
    earliest = min(rows)
    for at in range(earliest, end, extent.step):
        over = min(at + extent.step, now)
        if at in rows and (over == at + extent.step or over - at >= 600):  # of a short one the most would be missing
            *done, first = rows[at]
            points.append((at, _value(metric, done, over - (first if at == earliest else at), diff1)))
        elif over == at + extent.step:
            points.append((at, None))
    return points


def _rows_of(reader: Reader, extent: Range, start: int, end: int, worker: str) -> dict[int, tuple[Any, ...]]:
    """Of one worker, as of all: the sums, what was refused, and the first start. The rows are keyed by start and
    worker: each start is looked up by itself, since among 10,000 workers a day has fourteen million rows."""
    found = reader.query("SELECT id FROM workers WHERE name = ?", (storable(worker),))
    if not found:
        return {}
    number, own = found[0][0], STEPS[extent.span]
    starts = "WITH RECURSIVE starts(at) AS (SELECT ? UNION ALL SELECT at + ? FROM starts WHERE at + ? < ?)"
    given = (start, own, own, end, extent.step, extent.step, number)
    rows = {at: (*values, 0, first) for at, first, *values in reader.query(
        f"{starts} SELECT at / ? * ?, MIN(start), {', '.join(_WORKER_SUMS)} FROM starts CROSS JOIN {extent.span}"
        " ON start = at AND worker = ? GROUP BY 1", given)}
    for at, refused, first in reader.query(
            f"{starts} SELECT at / ? * ?, SUM(count), MIN(start) FROM starts CROSS JOIN {extent.span}_refused"
            " ON start = at AND worker = ? GROUP BY 1", given):
        known = rows.get(at, (0.0, 0.0, 0, 0, 0.0, 0, first))
        rows[at] = (*known[:5], refused, min(first, known[6]))
    return rows


def _value(metric: str, row: Sequence[Any], seconds: float, diff1: int) -> float | None:
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

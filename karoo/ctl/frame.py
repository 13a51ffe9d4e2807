"""What `karoo top` shows: lines of text with styles, for a size. No I/O but for the clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from time import localtime, monotonic, strftime, time
from typing import Any

from karoo import units
from karoo.ctl import words
from karoo.ctl.screen import Line
from karoo.ctl.words import Column

NEWS_SECONDS = 60.0  # for which it is said that the proxy was started again
EVENTS, WORKERS = 6, 30  # that are shown at most; workers where there is no end of the screen
LEAST_WORKERS = 4  # rows that events leave to them


@dataclass(slots=True, frozen=True)
class Order:
    """In which order the workers are asked for, and the column that shows it; of several states, those of the first
    come first."""

    word: str
    sort: str
    column: str
    order: str = "desc"
    states: tuple[str, ...] = ("",)


SORTS = {
    "h": Order("hashrate", "hashrate_1h", "1h"), "a": Order("accepted", "accepted", "ACCEPTED"),
    "r": Order("rejected", "rejected", "REJECTED"),
    "s": Order("silence", "last_share", "LAST SHARE", "asc", ("silent", "online")),
}


@dataclass(slots=True, frozen=True)
class Seen:
    """What the proxy told last, at ``at`` (monotonic seconds); ``fault`` says why it tells nothing since
    ``failed_at``, ``restarted_at`` when it was seen to be another process."""

    summary: dict[str, Any]
    workers: list[dict[str, Any]]
    total: int
    events: list[dict[str, Any]]
    at: float
    fault: str = ""
    failed_at: float = 0.0
    restarted_at: float | None = None

    def after(self, former: Seen) -> Seen:
        """This one, with what the one before knows besides."""
        # A start is told in whole seconds, reckoned anew each time.
        again = abs(self.summary["started_unix"] - former.summary["started_unix"]) > 1
        return dataclasses.replace(self, restarted_at=self.at if again else former.restarted_at)

    def failed(self, why: str, now: float) -> Seen:
        """This one still, as nothing newer is to be had."""
        return dataclasses.replace(self, fault=why, failed_at=self.failed_at if self.fault else now)


TABLE = (
    Column("WORKER", lambda row: row["name"], flexible=10),
    Column("STATE", lambda row: row["state"], style=words.state_style),
    Column("SESS", lambda row: str(row["sessions"]), right=True),
    Column("1m", lambda row: units.hashrate(row["hashrate"]["1m"]), right=True),
    Column("1h", lambda row: units.hashrate(row["hashrate"]["1h"]), right=True),
    Column("24h", lambda row: units.hashrate(row["hashrate"]["24h"]), right=True),
    Column("ACCEPTED", lambda row: str(row["accepted"]), right=True),
    Column("REJECTED", lambda row: str(row["rejected"]), right=True),
    Column("RATIO", lambda row: words.share_of(row["rejected"], row["accepted"] + row["rejected"]), right=True),
    Column("LAST SHARE", lambda row: words.ago(row["seconds_since_share"]), right=True),
    Column("DEVICE", lambda row: row["device"] or "-", flexible=5),
)
# Where there is too little room for all, these go, in this order; never the one that is sorted by.
DISPENSABLE = ("24h", "SESS", "1m", "DEVICE", "RATIO", "REJECTED", "ACCEPTED", "1h", "STATE")


def picture(seen: Seen, key: str, columns: int, rows: int | None) -> list[Line]:
    """The lines, as many as there is room for; `rows` None: as many as it takes, and no word of keys."""
    head = list(_head(seen))
    events = [_event(one) for one in seen.events[:EVENTS]][::-1]
    if rows is None:
        table = _workers(seen, key, columns, WORKERS + 2)
        return [*head, *([[], *events] if events else []), [], *table]
    room = max(rows - 1 - len(head), 0)  # the last line tells the keys
    events = events[-min(len(events), max(room - LEAST_WORKERS - 3, 0)):] if room > LEAST_WORKERS + 3 else []
    middle: list[Line] = [[], *events] if events else []
    left = room - len(middle) - 1
    table = [[], *_workers(seen, key, columns, left)] if left > 2 else []
    body: list[Line] = [*head, *middle, *table][:max(rows - 1, 0)]
    body += [[]] * (rows - 1 - len(body))
    return [*body, _foot(key, columns)]


# ---------------------------------------------------------------- parts

def _head(seen: Seen) -> Iterator[Line]:
    one = seen.summary
    shares, pool, workers = one["shares"], one["pool"], one["workers"]
    now = monotonic()
    yield [(f"Karoo {words.plain(one['version'])}", "head"),
           (f"  up {units.duration(one['uptime_seconds'])}   {strftime('%H:%M:%S', localtime(time()))}", "")]
    if seen.fault:
        yield [(f"no proxy since {units.duration(now - seen.failed_at)}; it is asked again and again", "bad")]
        yield [(words.plain(seen.fault), "bad")]
    elif seen.restarted_at is not None and now - seen.restarted_at < NEWS_SECONDS:
        yield [(f"the proxy was started again {units.duration(now - seen.restarted_at)} ago", "warn")]
    yield [("Pool      ", "head"), (words.plain(words.pool_line(pool, one["now_unix"])),
                                    words.STATES.get(pool["state"], ""))]
    yield [("Hashrate  ", "head"), (words.rates(one["hashrate"]), "")]
    yield [("Paid      ", "head"), (words.rates(one["hashrate_paid"]), "")]
    yield [("Workers   ", "head"), (f"{workers['online']} online", "good" if workers["online"] else ""), ("   ", ""),
           (f"{workers['silent']} silent", "warn" if workers["silent"] else ""), ("   ", ""),
           (f"{workers['gone']} gone", "bad" if workers["gone"] else ""),
           (f"   {one['sessions']} of {one['max_sessions']} sessions   {one['bans']} bans", "")]
    yield [("Shares    ", "head"), (f"{shares['per_second']:.3g} a second   {shares['accepted']} accepted   "
                                    f"{shares['blocks']} blocks   the last "
                                    + (f"{units.duration(shares['seconds_since_share'])} ago"
                                       if shares["seconds_since_share"] is not None else "never"), "")]
    ratio = words.share_of(shares["rejected"], shares["accepted"] + shares["rejected"])
    reasons = words.plain(words.reasons(shares["rejected_by_reason"], 4))
    yield [("Rejects   ", "head"), (f"{shares['rejected']} ({ratio})" + (f": {reasons}" if reasons else ""), "")]
    yield [("Latency   ", "head"), (words.latency(one["pool_latency_ms"]), "")]
    if one["ledger"]["fault"]:
        yield [("Accounts  ", "head"), (f"not kept: {words.plain(one['ledger']['fault'])}", "bad")]
    if one["exceptions"]:
        yield [("Bugs      ", "head"), (f"{one['exceptions']}: the log has their tracebacks", "bad")]


def _event(one: dict[str, Any]) -> Line:
    stamp = strftime("%m-%d %H:%M:%S", localtime(one["unix"]))
    return [(f"{stamp}  ", "dim"), (words.plain(one["text"]), words.STATES.get(one["severity"], ""))]


def _workers(seen: Seen, key: str, columns: int, rows: int) -> list[Line]:
    """How many there are, a line of titles, and so many lines in all at most."""
    shown = seen.workers[:max(rows - 2, 0)]
    if not shown:
        return [[("no workers", "dim")]] if not seen.workers else []
    cells = {column.title: [column.title, *(words.plain(column.tell(row)) for row in shown)] for column in TABLE}
    widths = {title: max(map(words.width, texts)) for title, texts in cells.items()}
    table = _fitting(widths, SORTS[key].column, columns - 1)
    rooms = words.fit(table, [widths[column.title] for column in table], columns - 1)
    lines: list[Line] = [[(f"Workers by {SORTS[key].word}, {len(shown)} of {seen.total}", "dim")], [(words.GAP.join(
        words.pad(column.title, room, column.right) for column, room in zip(table, rooms, strict=True)), "head")]]
    for number, row in enumerate(shown, 1):
        line: list[tuple[str, str]] = []
        for column, room in zip(table, rooms, strict=True):
            line += [(words.pad(cells[column.title][number], room, column.right), column.style(row)), (words.GAP, "")]
        lines.append(line[:-1])
    return lines


def _fitting(widths: dict[str, int], sorted_by: str, room: int) -> list[Column]:
    """The columns for which there is room, of those widths by their titles."""
    table = list(TABLE)
    for title in DISPENSABLE:
        least = sum(min(column.flexible or widths[column.title], widths[column.title]) for column in table)
        if least + len(words.GAP) * (len(table) - 1) <= room:
            break
        if title != sorted_by:
            table = [column for column in table if column.title != title]
    return table


def _foot(key: str, columns: int) -> Line:
    keys = "  ".join(f"{letter} {order.word}" for letter, order in SORTS.items())
    return [(words.pad(f" {keys}  q ends   by {SORTS[key].word}", max(columns - 1, 0)), "line")]

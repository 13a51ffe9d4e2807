"""`karoo report`: what the ledger holds of a time, by worker, as a table, CSV or JSON. Only reads; times are UTC."""

from __future__ import annotations

import argparse
import csv
import difflib
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from time import time
from typing import Any

from karoo import log, units
from karoo.ledger import STEPS, Deltas, LedgerError, Reader, Span, kept_since, open_reader, storable
from karoo.stratum import difficulty as dif
from karoo.stratum.share import ALGORITHMS

EX_OK, EX_USAGE, EX_UNAVAILABLE, EX_CONFIG = 0, 2, 69, 78  # as everywhere on the command line
DAY = STEPS["day"]
WIDEST = 40  # of a name or a reason in the table; CSV and JSON have them whole
SHOWN_REASONS = 3
_EPOCH = datetime(1970, 1, 1)


class _Refusal(Exception):
    """No report; the text says why, and `code` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True, frozen=True)
class Period:
    """What is reported, in Unix seconds: the rows that begin in [start, end). `since` and `until` bound the part of
    it in which accounts were kept, over which hashrates are taken. `widened`: it is more than was asked for."""

    start: int
    end: int
    since: float
    until: float
    widened: bool

    @property
    def seconds(self) -> float:
        return max(0.0, self.until - self.since)


# ---------------------------------------------------------------- the command

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `karoo report`."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("-c", "--config", metavar="FILE", help="the proxy's configuration, which names the database")
    place.add_argument("--database", metavar="FILE", help="the database itself")
    parser.add_argument("--day", type=_day, metavar="YYYY-MM-DD", help="one day, in UTC (default: today)")
    parser.add_argument("--from", type=_moment, dest="since", metavar="TIME",
                        help="YYYY-MM-DD, or YYYY-MM-DDTHH:MM, in UTC")
    parser.add_argument("--to", type=_end, dest="until", metavar="TIME",
                        help="the same; a day is meant with all its hours (default: now)")
    parser.add_argument("--worker", metavar="NAME", help="only this one")
    parser.add_argument("--algorithm", choices=("sha256d", "scrypt"),
                        help="what the hashrates are told by (default: the configuration's; else sha256d)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated, every number in full")
    form.add_argument("--json", action="store_true", help="a list with one object per worker")


def run(database: str, args: argparse.Namespace, algorithm: str = "sha256d", now: float | None = None) -> int:
    """Print the report that `add_arguments` asked for; the exit code. `now` is in Unix seconds."""
    now = time() if now is None else now
    diff1 = ALGORITHMS[args.algorithm or algorithm].diff1
    try:
        if not database:
            raise _Refusal("accounting.database is empty in this configuration, so no accounts are kept", EX_CONFIG)
        start, end = _asked(args, now)
        with closing(open_reader(database)) as reader:
            period = _period(reader, start, end, now)
            sums = _gather(reader, period, args.worker)
    except LedgerError as error:
        return _fail(str(error), EX_UNAVAILABLE)
    except _Refusal as refusal:
        return _fail(str(refusal), refusal.code)
    ordered = sorted(sums.items(), key=lambda item: (-item[1].work, item[0]))
    rows = [row(name, deltas, period, diff1) for name, deltas in ordered]
    if args.csv:
        text = as_csv(rows)
    elif args.json:
        text = json.dumps(rows, indent=1) + "\n"
    else:
        total = Deltas()
        for deltas in sums.values():
            total.add(deltas)
        text = as_table(rows, row("total", total, period, diff1), period)
    return _say(text)


def _say(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # `karoo report | head`; what is still buffered must not fail once more at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EX_OK


def _fail(text: str, code: int) -> int:
    print(f"karoo: {log.clean(text)}", file=sys.stderr)
    return code


# ---------------------------------------------------------------- times

def _parse(text: str, *forms: str) -> datetime | None:
    for form in forms:
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc)
        except ValueError:
            continue
    return None


def _day(text: str) -> int:
    """The Unix time of a day's start. Raises ArgumentTypeError."""
    found = _parse(text, "%Y-%m-%d")
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day; write it as 2026-01-31")
    return int(found.timestamp())


def _moment(text: str) -> int:
    """The Unix time of a day's start, or of a minute. Raises ArgumentTypeError."""
    found = _parse(text, "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%MZ")
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it as 2026-01-31 or 2026-01-31T18:30 (UTC)")
    return int(found.timestamp())


def _end(text: str) -> int:
    """As _moment, but of a day its end."""
    return _moment(text) + (DAY if _parse(text, "%Y-%m-%d") else 0)


def _asked(args: argparse.Namespace, now: float) -> tuple[int, int]:
    """What was asked for: start and end, full minutes. Raises _Refusal."""
    if args.day is not None and (args.since is not None or args.until is not None):
        raise _Refusal("give either --day, or --from and --to", EX_USAGE)
    today = int(now) // DAY * DAY
    if args.day is not None:
        start, end = args.day, args.day + DAY
    else:
        end = today + DAY if args.until is None else args.until
        start = (min(end, today + DAY) - 1) // DAY * DAY if args.since is None else args.since  # --to alone: its day
    if start > now:
        raise _Refusal(f"{_utc(start)} UTC is still to come", EX_USAGE)
    if start >= end:
        raise _Refusal(f"nothing lies between --from {_utc(start)} and --to {_utc(end)} (UTC)", EX_USAGE)
    return start, min(end, today + DAY)


def _period(reader: Reader, asked_start: int, asked_end: int, now: float) -> Period:
    """The period for which there are rows: an end that only minutes or hours no longer kept could tell is moved
    outwards, to a full hour or day."""
    start, end = asked_start, asked_end
    levels: tuple[tuple[Span, int], ...] = (("minute", STEPS["hour"]), ("hour", DAY))
    for span, coarser in levels:
        kept = kept_since(span, now)
        if start < kept:
            start = start // coarser * coarser
        if max(start, end // coarser * coarser) < kept:
            end = -(-end // coarser) * coarser
    begun = min((first for first, _ in reader.seen().values()), default=start)
    return Period(start, end, max(start, begun), min(end, now), (start, end) != (asked_start, asked_end))


def pieces(start: int, end: int, spans: Sequence[Span] = ("day", "hour", "minute")) -> Iterator[tuple[Span, int, int]]:
    """A period cut into whole days, and what is left of it at both ends into hours, and then minutes.

    The sums are those of its minutes, from a thousandth of the rows.
    """
    if start >= end or not spans:
        return
    step = STEPS[spans[0]]
    first, last = -(-start // step) * step, end // step * step
    if first >= last:
        yield from pieces(start, end, spans[1:])
        return
    yield from pieces(start, first, spans[1:])
    yield spans[0], first, last
    yield from pieces(last, end, spans[1:])


# ---------------------------------------------------------------- numbers

def _gather(reader: Reader, period: Period, worker: str | None) -> dict[str, Deltas]:
    if worker is not None:
        known = reader.seen()
        if storable(worker) not in known:
            near = difflib.get_close_matches(worker, known, n=3)
            raise _Refusal(f"no worker {worker!r} in these accounts"
                           + (f"; did you mean {' or '.join(near)}?" if near else ""), EX_USAGE)
    sums: dict[str, Deltas] = {}
    for span, start, end in pieces(period.start, period.end):
        for name, deltas in reader.sums(span, start, end, worker).items():
            sums.setdefault(name, Deltas()).add(deltas)
    return sums


def row(name: str, deltas: Deltas, period: Period, diff1: int) -> dict[str, Any]:
    """One worker's line, as CSV and JSON tell it. Hashrates in hashes a second; None where there is nothing to tell."""
    checked = dif.hashrate(deltas.work, period.seconds, diff1)
    paid = dif.hashrate(deltas.pool_work, period.seconds, diff1)
    shares, cadence = deltas.accepted + deltas.refused_total, deltas.cadence
    return {
        "from": _iso(period.start), "to": _iso(period.end), "worker": name,
        "accepted": deltas.accepted, "answered_here": deltas.answered_here, "forwarded": deltas.forwarded,
        "pool_accepted": deltas.pool_accepted, "refused": deltas.refused_total, "stale": deltas.stale,
        "stale_percent": 100 * deltas.stale / shares if shares else None, "blocks": deltas.blocks,
        "difficulty_accepted": deltas.work, "pool_difficulty_accepted": deltas.pool_work,
        "hashrate_checked": checked, "hashrate_paid": paid,
        "difference_percent": 100 * (deltas.pool_work / deltas.work - 1) if deltas.work else None,
        "cadence_seconds": cadence and cadence[0], "cadence_spread_seconds": cadence and cadence[1],
        "pool_latency_ms": None if deltas.latency is None else deltas.latency * 1e3,
        "first_share": _iso(deltas.first_share), "last_share": _iso(deltas.last_share),
        "refused_by_reason": dict(sorted(deltas.refused.items(), key=lambda item: (-item[1], item[0]))),
    }


def _iso(moment: float | None) -> str | None:
    return None if moment is None else (_EPOCH + timedelta(seconds=int(moment))).isoformat() + "Z"


def _utc(moment: float) -> str:
    return (_EPOCH + timedelta(seconds=int(moment))).isoformat(" ", "minutes")


# ---------------------------------------------------------------- forms

def as_csv(rows: list[dict[str, Any]]) -> str:
    """A header and a line per worker; the reasons stand in one field, as JSON."""
    names = row("", Deltas(), Period(0, 0, 0, 0, False), dif.DIFF1_SHA256D)
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for one in rows:
        writer.writerow(one | {"refused_by_reason": json.dumps(one["refused_by_reason"], ensure_ascii=False)})
    return out.getvalue()


HEADER = ("worker", "accepted", "here", "to pool", "taken", "refused", "stale", "difficulty", "diff. paid",
          "hashrate", "rate paid", "differs", "interval", "latency", "refused for")


def as_table(rows: list[dict[str, Any]], total: dict[str, Any], period: Period) -> str:
    """For people: what is reported, a line per worker, a line for all."""
    lines = [f"{_utc(period.start)} to {_utc(period.end)}, UTC" + (
        "; widened, as minutes are kept for 48 hours and hours for a year" if period.widened else "")]
    if not rows:
        return f"{lines[0]}: nothing was accounted\n"
    lines.append(f"hashrates over {units.duration(period.seconds)}, {_utc(period.since)} to {_utc(period.until)}: from "
                 "the shares checked here, and from what the pool paid")
    if total["pool_accepted"]:
        lines.append(f"{total['pool_accepted']} shares paid: by chance alone the two may differ by "
                     f"{100 / math.sqrt(total['pool_accepted']):.2g} %")
    cells = [HEADER, *(_cells(one) for one in [*rows, total])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, line in enumerate(cells):
        if number in (1, len(cells) - 1):
            lines.append("-" * (sum(widths[:-1]) + 2 * (len(widths) - 1) + len(HEADER[-1])))
        numbers = (cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True))
        lines.append("  ".join((line[0].ljust(widths[0]), *numbers, line[-1])).rstrip())
    return "\n".join(lines) + "\n"


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    def told(key: str, form: str, scale: float = 1.0) -> str:
        return "-" if one[key] is None else form.format(one[key] * scale)

    cadence = one["cadence_seconds"]
    return (
        _plain(one["worker"]),
        *(str(one[key]) for key in ("accepted", "answered_here", "forwarded", "pool_accepted", "refused")),
        told("stale_percent", "{:.2f} %"),
        units.difficulty(one["difficulty_accepted"]), units.difficulty(one["pool_difficulty_accepted"]),
        units.hashrate(one["hashrate_checked"]), units.hashrate(one["hashrate_paid"]),
        told("difference_percent", "{:+.1f} %"),
        "-" if cadence is None else units.duration(cadence),
        told("pool_latency_ms", "{:.0f} ms"),
        _reasons(one["refused_by_reason"]),
    )


def _reasons(refused: dict[str, int]) -> str:
    """The commonest first, in short."""
    told = [f"{count} {_plain(reason)}" for reason, count in refused.items()]
    more = len(told) - SHOWN_REASONS
    return ", ".join(told[:SHOWN_REASONS]) + (f", and {more} more" if more > 0 else "")


def _plain(text: str) -> str:
    """A peer's words on one line and not too long."""
    text = log.clean(text).replace("\n", "\\n")
    return text if len(text) <= WIDEST else f"{text[:WIDEST - 1]}…"

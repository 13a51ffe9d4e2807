"""`karoo report`: what the ledger holds of a time, by worker, as a table, CSV or JSON. Only reads; times are UTC."""

from __future__ import annotations

import argparse
import csv
import difflib
import io
import json
import math
import sys
from contextlib import closing
from time import time
from typing import Any

from karoo import log, units
from karoo.accounting.deltas import Deltas
from karoo.accounting.faults import LedgerError
from karoo.accounting.ledger import Reader, open_reader, storable
from karoo.accounting.periods import (
    NoReport,
    Period,
    asked,
    iso,
    period_of,
    pieces,
    read_day,
    read_end,
    read_moment,
    utc,
)
from karoo.stratum import difficulty as dif
from karoo.stratum.share import ALGORITHMS

EX_OK, EX_USAGE, EX_UNAVAILABLE, EX_CONFIG = 0, 2, 69, 78  # as everywhere on the command line
WIDEST = 40  # of a name or a reason in the table; CSV and JSON have them whole
SHOWN_REASONS = 3


# ---------------------------------------------------------------- the command

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `karoo report`."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("-c", "--config", metavar="FILE", help="the proxy's configuration, which names the database")
    place.add_argument("--database", metavar="FILE", help="the database itself")
    parser.add_argument("--day", type=read_day, metavar="YYYY-MM-DD", help="one day, in UTC (default: today)")
    parser.add_argument("--from", type=read_moment, dest="since", metavar="TIME",
                        help="YYYY-MM-DD, or YYYY-MM-DDTHH:MM, in UTC")
    parser.add_argument("--to", type=read_end, dest="until", metavar="TIME",
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
    if not database:
        return _fail("accounting.database is empty in this configuration, so no accounts are kept", EX_CONFIG)
    try:
        start, end = asked(args, now)
        with closing(open_reader(database)) as reader:
            period = period_of(reader, start, end, now)
            sums = _gather(reader, period, args.worker)
    except LedgerError as error:
        return _fail(str(error), EX_UNAVAILABLE)
    except NoReport as refusal:
        return _fail(str(refusal), EX_USAGE)
    ordered = sorted(sums.items(), key=lambda item: (-item[1].checked_work, item[0]))
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
    sys.stdout.write(text)
    return EX_OK


def _fail(text: str, code: int) -> int:
    print(f"karoo: {log.clean(text)}", file=sys.stderr)
    return code


# ---------------------------------------------------------------- numbers

def _gather(reader: Reader, period: Period, worker: str | None) -> dict[str, Deltas]:
    if worker is not None:
        known = reader.seen()
        if storable(worker) not in known:
            near = difflib.get_close_matches(worker, known, n=3)
            raise NoReport(f"no worker {worker!r} in these accounts"
                           + (f"; did you mean {' or '.join(near)}?" if near else ""))
    sums: dict[str, Deltas] = {}
    for span, start, end in pieces(period.start, period.end):
        for name, deltas in reader.sums(span, start, end, worker).items():
            sums.setdefault(name, Deltas()).add(deltas)
    return sums


def row(name: str, deltas: Deltas, period: Period, diff1: int) -> dict[str, Any]:
    """One worker's line, as CSV and JSON tell it. Hashrates in hashes a second; None where there is nothing to tell."""
    checked = dif.hashrate(deltas.checked_work, period.seconds, diff1)
    paid = dif.hashrate(deltas.pool_work, period.seconds, diff1)
    shares, cadence = deltas.accepted + deltas.refused_total, deltas.cadence
    return {
        "from": iso(period.start), "to": iso(period.end), "worker": name,
        "accepted": deltas.accepted, "answered_here": deltas.answered_here, "forwarded": deltas.forwarded,
        "pool_accepted": deltas.pool_accepted, "pool_refused": deltas.pool_refused, "refused": deltas.refused_total,
        "stale": deltas.stale, "duplicate": deltas.duplicate, "low": deltas.low,
        "stale_percent": 100 * deltas.stale / shares if shares else None, "blocks": deltas.blocks,
        "difficulty_accepted": deltas.accepted_work, "difficulty_answered_here": deltas.here_work,
        "difficulty_forwarded": deltas.forwarded_work, "pool_difficulty_accepted": deltas.pool_work,
        "pool_difficulty_refused": deltas.pool_refused_work,
        "hashrate_checked": checked, "hashrate_paid": paid,
        "difference_percent": 100 * (deltas.pool_work / deltas.checked_work - 1) if deltas.checked_work else None,
        "cadence_seconds": cadence and cadence[0], "cadence_spread_seconds": cadence and cadence[1],
        "pool_latency_ms": None if deltas.latency is None else deltas.latency * 1e3,
        "first_share": iso(deltas.first_share), "last_share": iso(deltas.last_share),
        "refused_by_reason": dict(sorted(deltas.refused.items(), key=lambda item: (-item[1], item[0]))),
    }


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
    lines = [f"{utc(period.start)} to {utc(period.end)}, UTC" + (
        "; widened, as minutes are kept for 48 hours and hours for a year" if period.widened else "")]
    if not rows:
        return f"{lines[0]}: nothing was accounted\n"
    lines.append(f"hashrates over {units.duration(period.seconds)}, {utc(period.since)} to {utc(period.until)}: from "
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

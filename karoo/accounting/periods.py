"""The period that a report is about: read from the command line, and cut into days, hours and minutes. All UTC."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from karoo.accounting.ledger import Reader, kept_since
from karoo.accounting.schema import STEPS, Span

DAY = STEPS["day"]
_EPOCH = datetime(1970, 1, 1)


class NoReport(Exception):
    """What was asked for cannot be reported; the text says why."""


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


def _parse(text: str, *forms: str) -> datetime | None:
    for form in forms:
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc)
        except ValueError:
            continue
    return None


def read_day(text: str) -> int:
    """The Unix time of a day's start. Raises ArgumentTypeError."""
    found = _parse(text, "%Y-%m-%d")
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day; write it as 2026-01-31")
    return int(found.timestamp())


def read_moment(text: str) -> int:
    """The Unix time of a day's start, or of a minute. Raises ArgumentTypeError."""
    found = _parse(text, "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%MZ")
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it as 2026-01-31 or 2026-01-31T18:30 (UTC)")
    return int(found.timestamp())


def read_end(text: str) -> int:
    """As read_moment, but of a day its end."""
    return read_moment(text) + (DAY if _parse(text, "%Y-%m-%d") else 0)


def asked(args: argparse.Namespace, now: float) -> tuple[int, int]:
    """What was asked for: start and end, full minutes. Raises NoReport."""
    if args.day is not None and (args.since is not None or args.until is not None):
        raise NoReport("give either --day, or --from and --to")
    today = int(now) // DAY * DAY
    if args.day is not None:
        start, end = args.day, args.day + DAY
    else:
        end = today + DAY if args.until is None else args.until
        start = (min(end, today + DAY) - 1) // DAY * DAY if args.since is None else args.since  # --to alone: its day
    if start > now:
        raise NoReport(f"{utc(start)} UTC is still to come")
    if start >= end:
        raise NoReport(f"nothing lies between --from {utc(start)} and --to {utc(end)} (UTC)")
    return start, min(end, today + DAY)


def period_of(reader: Reader, asked_start: int, asked_end: int, now: float) -> Period:
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


def iso(moment: float | None) -> str | None:
    """2026-01-31T18:30:00Z"""
    return None if moment is None else (_EPOCH + timedelta(seconds=int(moment))).isoformat() + "Z"


def utc(moment: float) -> str:
    """2026-01-31 18:30"""
    return (_EPOCH + timedelta(seconds=int(moment))).isoformat(" ", "minutes")

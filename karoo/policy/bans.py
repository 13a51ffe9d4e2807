"""Bans: their length grows for those that offend again, and is forgiven step by step. No I/O."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from karoo.policy import addresses

LONGEST = 86_400.0  # seconds that a ban doubles up to, unless the configured length is above it already
# An address is forgiven one doubling for each time that it behaved as long as its ban was, and for this long at
# least: with bans of 5 minutes, an attack that pauses for 5 minutes would else start from the beginning each time.
FORGIVEN_AFTER = 3600.0  # seconds
STEPS = 1000  # entries looked at in one sweep, of a kind: a millisecond


@dataclass(frozen=True, slots=True)
class Ban:
    """``address`` is as counted (`2001:db8:1:2::/64`), ``why`` is in words, ``since`` and ``until`` are monotonic
    seconds, ``times`` counts the bans in a row (a wholly forgiven address begins at 1 again)."""

    address: str
    why: str
    since: float
    until: float
    times: int

    def text(self, now: float) -> str:
        """The sentence for the log and the status page."""
        again = f", for the {_ordinal(self.times)} time" if self.times > 1 else ""
        return f"{self.address} is banned for {span(self.until - now)}{again}: {self.why}"


class Bans:
    """Who is banned, by the keys of `addresses.key`. ``first`` is the length of a first ban in seconds.

    There are `most` bans at most, and as many that ended and are not forgiven. Where there are more, those go that end
    first, or that ended first. 0.4 KB each.
    """

    def __init__(self, first: float, most: int) -> None:
        self._first, self._longest, self._most = first, max(first, LONGEST), most
        self._bans: dict[int, Ban] = {}
        self._ends: list[tuple[float, int]] = []  # a heap of (until, key); what fits no ban any more is passed over
        self._past: OrderedDict[int, Ban] = OrderedDict()  # ended and not forgiven, in the order of ending

    def change(self, first: float) -> None:
        """Another length of first bans, for those to come."""
        self._first, self._longest = first, max(first, LONGEST)

    def __len__(self) -> int:
        """The bans in force, and those that ended since the last sweep."""
        return len(self._bans)

    @property
    def remembered(self) -> int:
        """Bans that ended and are not forgiven."""
        return len(self._past)

    def of(self, key: int, now: float) -> Ban | None:
        """The ban in force."""
        ban = self._bans.get(key)
        return ban if ban is not None and now < ban.until else None

    def in_force(self, now: float) -> list[Ban]:
        """All of them, the latest first."""
        return sorted(self.present(now), key=lambda ban: ban.since, reverse=True)

    def present(self, now: float) -> list[Ban]:
        """All of them, in no order: of ten thousand, sorting would take 3 ms."""
        return [ban for ban in self._bans.values() if now < ban.until]

    def punish(self, key: int, why: str, now: float) -> Ban:
        """Ban for twice as long as what is not forgiven of the last time."""
        length, times = self._unforgiven(key, now)
        return self.put(key, min(2 * length, self._longest) if times else self._first, why, now)

    def put(self, key: int, seconds: float, why: str, now: float) -> Ban:
        """Ban for so long, in place of any other ban."""
        _, times = self._unforgiven(key, now)
        self.lift(key)
        self._bans[key] = ban = Ban(addresses.shown(key), why, now, now + seconds, times + 1)
        heapq.heappush(self._ends, (ban.until, key))
        while len(self._bans) > self._most:
            self._end_next()
        if len(self._ends) > 2 * self._most + STEPS:  # mostly of bans that were lifted
            self._ends = [(each.until, banned) for banned, each in self._bans.items()]
            heapq.heapify(self._ends)
        return ban

    def lift(self, key: int) -> bool:
        """End a ban, and forgive all; whether there was one."""
        self._past.pop(key, None)
        return self._bans.pop(key, None) is not None

    def sweep(self, now: float) -> bool:
        """Take out what ended or is forgiven, STEPS entries each at most; whether there may be more."""
        ended = 0
        while ended < STEPS and self._ends and self._ends[0][0] <= now:
            self._end_next()
            ended += 1
        forgiven = 0
        while forgiven < STEPS and self._past and not self._unforgiven(next(iter(self._past)), now)[1]:
            self._past.popitem(last=False)
            forgiven += 1
        return STEPS in (ended, forgiven)

    def _unforgiven(self, key: int, now: float) -> tuple[float, int]:
        """The length of the last ban, in seconds, halved for each time that the address behaved since, and how many
        there were; (0, 0) once it is forgiven below the length of a first one."""
        ban = self._bans.get(key) or self._past.get(key)
        if ban is None:
            return 0.0, 0
        length, quiet = ban.until - ban.since, now - ban.until
        while length >= self._first and quiet >= (step := max(length, FORGIVEN_AFTER)):
            quiet -= step
            length /= 2
        return (length, ban.times) if length >= self._first else (0.0, 0)

    def _end_next(self) -> None:
        """The ban that ends first is over now."""
        until, key = heapq.heappop(self._ends)
        ban = self._bans.get(key)
        if ban is None or ban.until != until:
            return
        del self._bans[key]
        self._past[key] = ban
        if len(self._past) > self._most:
            self._past.popitem(last=False)


def span(seconds: float) -> str:
    """5 s, 12 min, 3.5 h."""
    if seconds < 600:
        return f"{max(seconds, 0.0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _ordinal(number: int) -> str:
    teens = number % 100 // 10 == 1
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"

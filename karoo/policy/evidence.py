"""What is known of a miner's speed: shares counted against the time that they had. No I/O.

A miner of r difficulty a second that works at difficulty d finds a share every d / r seconds on average, each at
random. So n shares counted under the exposure E = sum of seconds / difficulty tell r = n / E, within 1/sqrt(n).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

NEWEST = 10.0  # seconds that the newest buckets span; older ones are merged pairwise, up to LEVELS times doubled
LEVELS = 6  # the oldest span 640 s; there are two of each, so that they reach back 21 minutes
MOST = 2 * (LEVELS + 1)
_FIELDS = 3  # seconds, shares, exposure


def deviation(counted: float, expected: float) -> float:
    """By how many standard deviations a count of random events differs from what was expected (Anscombe's
    transformation, https://en.wikipedia.org/wiki/Anscombe_transform: near normal from 2 events on)."""
    return 2.0 * (math.sqrt(counted + 0.375) - math.sqrt(expected + 0.375))


class Evidence:
    """Buckets of (seconds, shares, exposure), the newest last; the older the coarser. 14 at most, 400 bytes."""

    __slots__ = ("_buckets", "_exposure", "_seconds", "shares")

    def __init__(self) -> None:
        self._buckets = array("d")
        self._seconds = self._exposure = 0.0
        self.shares = 0  # in the bucket that is filling

    def pass_time(self, seconds: float, difficulty: float) -> None:
        """So many seconds went by, in which shares of at least this difficulty would have been counted."""
        self._seconds += seconds
        self._exposure += seconds / difficulty
        if self._seconds >= NEWEST:
            self._buckets.extend((self._seconds, self.shares, self._exposure))
            self._seconds = self._exposure = 0.0
            self.shares = 0
            self._merge()
            del self._buckets[:max(0, len(self._buckets) - MOST * _FIELDS)]

    def count(self) -> None:
        """A share of at least that difficulty."""
        self.shares += 1

    def _merge(self) -> None:
        """Of three buckets of a level the two oldest become one of the next."""
        buckets = self._buckets
        end = len(buckets)  # of the buckets of this level and the coarser ones
        for level in range(LEVELS + 1):
            start = end
            while start and buckets[start - _FIELDS] < NEWEST * 2 ** (level + 1):
                start -= _FIELDS
            if end - start <= 2 * _FIELDS:
                end = start
                continue
            if level == LEVELS:
                del buckets[:_FIELDS]
                return
            for field in range(_FIELDS):
                buckets[start + field] += buckets[start + _FIELDS + field]
            del buckets[start + _FIELDS:start + 2 * _FIELDS]
            end = start + _FIELDS

    def windows(self) -> Iterator[tuple[float, float, float]]:
        """(seconds, shares, exposure) of the newest bucket, the two newest, and so on to all."""
        seconds, shares, exposure = self._seconds, float(self.shares), self._exposure
        yield seconds, shares, exposure
        buckets = self._buckets
        for at in range(len(buckets) - _FIELDS, -1, -_FIELDS):
            seconds += buckets[at]
            shares += buckets[at + 1]
            exposure += buckets[at + 2]
            yield seconds, shares, exposure

    def total(self) -> tuple[float, float, float]:
        """Seconds, shares and exposure of all that is remembered."""
        buckets = self._buckets
        return (self._seconds + sum(buckets[0::_FIELDS]), self.shares + sum(buckets[1::_FIELDS]),
                self._exposure + sum(buckets[2::_FIELDS]))

    def keep(self, seconds: float) -> None:
        """Forget what is older than the buckets that span so many seconds (0: all): the miner was another one then."""
        if not seconds:
            self._seconds = self._exposure = 0.0
            self.shares = 0
        spanned, at = self._seconds, len(self._buckets)
        while at and spanned < seconds:
            at -= _FIELDS
            spanned += self._buckets[at]
        del self._buckets[:at]

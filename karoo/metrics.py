"""Counters and windows that the rest increments. One object per proxy, no globals."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field


class Latency:
    """How long waits were: counts in buckets that each span a fifth more than the former. The newer half of some
    thousand waits weighs most. Percentiles are told within 10 %."""

    __slots__ = ("_counts", "_total")

    SHORTEST = 0.00025  # seconds; what was shorter counts as this
    STEPS = 4  # buckets in which waits double
    BUCKETS = 18 * STEPS  # up to 65 s
    FADE = 2000  # waits, at which all counts are halved

    def __init__(self) -> None:
        self._counts: array[int] | None = None  # made when needed
        self._total = 0

    def add(self, seconds: float) -> None:
        if self._counts is None:
            self._counts = array("H", bytes(2 * self.BUCKETS))
        bucket = int(math.log2(seconds / self.SHORTEST) * self.STEPS) if seconds > self.SHORTEST else 0
        self._counts[min(bucket, self.BUCKETS - 1)] += 1
        self._total += 1
        if self._total >= self.FADE:
            self._counts = array("H", [count // 2 for count in self._counts])
            self._total = sum(self._counts)

    def percentiles(self, *wanted: float) -> list[float] | None:
        """The waits, in seconds, that so many percent did not exceed (ascending); None before the first."""
        if self._counts is None:
            return None
        found, below, bucket = [], 0, -1
        for percent in wanted:
            while below <= self._total * percent / 100 and bucket < self.BUCKETS - 1:
                bucket += 1
                below += self._counts[bucket]
            found.append(self.SHORTEST * 2 ** ((bucket + 0.5) / self.STEPS))
        return found


class Tally(Counter[str]):
    """Counts by reason. Reasons may hold a peer's own words: beyond so many different ones they count as `other`."""

    MOST = 64

    def count(self, reason: str) -> None:
        reason = reason[:80]
        self[reason if reason in self or len(self) < self.MOST else "other"] += 1


@dataclass(slots=True)
class Metrics:
    """What happened since the start."""

    connections: int = 0
    turned_away: Tally = field(default_factory=Tally)  # connections refused a session, by reason
    ended: Tally = field(default_factory=Tally)  # sessions ended, by reason
    exceptions: int = 0  # bugs: each is in the log with its traceback
    jobs: int = 0
    last_notify: float = 0.0  # Unix time of the pool's last job
    blocks: int = 0  # shares that meet the network's target
    upstream_dials: int = 0
    upstream_losses: Tally = field(default_factory=Tally)
    unexpected_answers: int = 0  # from pools, to ids that were never asked or answered before

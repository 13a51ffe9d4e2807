"""Counters and windows that the rest increments. One object per proxy, no globals."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field

from karoo.timeline import Timeline

_SHORTEST = 0.00025  # seconds; what was shorter counts as this
_STEPS = 4  # buckets in which waits double
_BUCKETS = 18 * _STEPS  # up to 65 s


def latency_bucket(seconds: float) -> int:
    """Where a wait is counted: each bucket spans a fifth more than the former."""
    return min(int(math.log2(seconds / _SHORTEST) * _STEPS), _BUCKETS - 1) if seconds > _SHORTEST else 0


class Latency:
    """How long waits were. The newer half of some thousand waits weighs most; percentiles are told within 10 %."""

    __slots__ = ("_counts", "_total")

    FADE = 2000  # waits, at which all counts are halved

    def __init__(self) -> None:
        self._counts: array[int] | None = None  # made when needed
        self._total = 0

    def count(self, bucket: int) -> None:
        """A wait, by its `latency_bucket`."""
        if self._counts is None:
            self._counts = array("H", bytes(2 * _BUCKETS))
        self._counts[bucket] += 1
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
            while below <= self._total * percent / 100 and bucket < _BUCKETS - 1:
                bucket += 1
                below += self._counts[bucket]
            found.append(_SHORTEST * 2 ** ((bucket + 0.5) / _STEPS))
        return found


class Histogram:
    """How long things took, since the start: counts by upper bound (seconds), the last without one, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, *bounds: float) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def plain(self) -> dict[str, object]:
        """As plain data."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


_QUICK = (50e-6, 100e-6, 250e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
_SLOW = (250e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Tally(Counter[str]):
    """Counts by reason. Reasons may hold a peer's own words: beyond so many different ones they count as `other`."""

    MOST = 64

    def count(self, reason: str) -> None:
        reason = reason[:200]
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
    pool_faults: dict[int, tuple[str, float]] = field(default_factory=dict)  # pool -> why it failed last, Unix seconds
    failovers: int = 0  # the miners were taken to another pool
    bans: int = 0
    vardiff_changes: int = 0  # difficulties told to miners after their first one
    # Seconds that the last ticks of the sweep came late, the latest last: so long did somebody keep the loop
    hub_lags: deque[float] = field(default_factory=lambda: deque([0.0], maxlen=60))
    answer_here: Histogram = field(default_factory=lambda: Histogram(*_QUICK))  # from a share's line to its answer
    answer_pool: Histogram = field(default_factory=lambda: Histogram(*_SLOW))  # the same, with the pool's verdict
    job_fanout: Histogram = field(default_factory=lambda: Histogram(*_SLOW))  # a pool's line to the last miner's socket
    timeline: Timeline = field(default_factory=Timeline)

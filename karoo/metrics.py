"""Counters and windows that the rest increments. One object per proxy, no globals."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field


class Latency:
    """The last thousand waits, in seconds."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=1000)

    def add(self, seconds: float) -> None:
        self._samples.append(seconds)

    def percentiles(self, *wanted: float) -> list[float] | None:
        """The waits that so many percent did not exceed; None before the first."""
        ordered = sorted(self._samples)
        return [ordered[min(int(len(ordered) * p / 100), len(ordered) - 1)] for p in wanted] if ordered else None


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
    pool_latency: Latency = field(default_factory=Latency)

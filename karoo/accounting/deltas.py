"""What one worker did in some time: the unit in which shares are booked, kept and reported. No I/O."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields

STALE, DUPLICATE, LOW = "stale", "duplicate", "low difficulty"
POOL = "pool: "  # begins the reasons that are a pool's verdicts; its code follows, and its words
MOST_REASONS = 64  # kept apart in one place; further ones, which a peer's words may be, count as OTHER_REASON
OTHER_REASON = "other"
MAX_REASON = 80  # characters
_NUMBERS = re.compile(r"\b(?=[A-Fa-f.]*\d)[\dA-Fa-f.]+(?:(?<=[Ee])[+-]\d+)?\b")  # hex too


@dataclass(slots=True)
class Deltas:
    """Counts and sums. Work is difficulty; times are seconds, those of shares Unix seconds.

    Every good share is either answered here, as it is below the pool's difficulty, or forwarded; a forwarded one is
    taken or refused by the pool, or (the connection was lost) never answered.
    """

    answered_here: int = 0
    here_work: float = 0.0
    forwarded: int = 0
    forwarded_work: float = 0.0  # as judged here
    pool_accepted: int = 0
    taken_work: float = 0.0  # of those the pool took, as judged here
    pool_work: float = 0.0  # the same, as the pool pays for it
    pool_refused: int = 0
    pool_refused_work: float = 0.0  # as the pool would have paid
    blocks: int = 0  # candidates: shares that meet the network's target
    latency_count: int = 0  # verdicts of the pool, and the sum of the waits for them
    latency_sum: float = 0.0
    gaps: int = 0  # intervals between good shares, their sum and the sum of their squares
    gap_sum: float = 0.0
    gap_squares: float = 0.0
    first_share: float | None = None  # good ones
    last_share: float | None = None
    refused: dict[str, int] = field(default_factory=dict)  # by reason, the pool's as "pool: 23 low difficulty"

    def add(self, other: Deltas) -> None:
        """Take in what the same worker did at another time."""
        # Spelled out: done for each worker every few seconds, and a loop over the names takes five times as long.
        self.answered_here += other.answered_here
        self.here_work += other.here_work
        self.forwarded += other.forwarded
        self.forwarded_work += other.forwarded_work
        self.pool_accepted += other.pool_accepted
        self.taken_work += other.taken_work
        self.pool_work += other.pool_work
        self.pool_refused += other.pool_refused
        self.pool_refused_work += other.pool_refused_work
        self.blocks += other.blocks
        self.latency_count += other.latency_count
        self.latency_sum += other.latency_sum
        self.gaps += other.gaps
        self.gap_sum += other.gap_sum
        self.gap_squares += other.gap_squares
        if other.first_share is not None and (self.first_share is None or other.first_share < self.first_share):
            self.first_share = other.first_share
        if other.last_share is not None and (self.last_share is None or other.last_share > self.last_share):
            self.last_share = other.last_share
        for reason, count in other.refused.items():
            self.refuse(reason, count)

    def refuse(self, reason: str, count: int = 1) -> None:
        """Shares were refused, by the proxy or by the pool."""
        refused = self.refused
        if reason not in refused and len(refused) >= MOST_REASONS:
            reason = OTHER_REASON
        refused[reason] = refused.get(reason, 0) + count

    @property
    def accepted(self) -> int:
        """Told true: answered here, or taken by the pool."""
        return self.answered_here + self.pool_accepted

    @property
    def accepted_work(self) -> float:
        return self.here_work + self.taken_work

    @property
    def checked_work(self) -> float:
        """Of all good shares, whatever the pool said of them."""
        return self.here_work + self.forwarded_work

    @property
    def refused_total(self) -> int:
        return sum(self.refused.values())

    @property
    def stale(self) -> int:
        """Shares for work that was over, by the proxy's verdict or by the pool's."""
        return self._refused_as(STALE, 21)

    @property
    def duplicate(self) -> int:
        return self._refused_as(DUPLICATE, 22)

    @property
    def low(self) -> int:
        """Shares that missed their difficulty."""
        return self._refused_as(LOW, 23)

    def _refused_as(self, word: str, code: int) -> int:
        return sum(count for reason, count in self.refused.items()
                   if reason == word or f"{reason} ".startswith(f"{POOL}{code} "))

    @property
    def cadence(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the interval between good shares, in seconds; None without one."""
        return cadence(self.gaps, self.gap_sum, self.gap_squares)

    @property
    def latency(self) -> float | None:
        """Mean wait for the pool's verdict, in seconds."""
        return self.latency_sum / self.latency_count if self.latency_count else None


COLUMNS = tuple(one.name for one in fields(Deltas) if one.name != "refused")
SUMS = tuple(name for name in COLUMNS if name not in ("first_share", "last_share"))


def cadence(gaps: float, total: float, squares: float) -> tuple[float, float] | None:
    """Mean and standard deviation of intervals, from their number, sum and sum of squares; None without one."""
    if gaps <= 0:
        return None
    mean = total / gaps
    return mean, math.sqrt(max(0.0, squares / gaps - mean * mean))


def pool_reason(code: int, text: str) -> str:
    """A pool's refusal as it is counted; numbers in its words become `#`, so that like refusals count as one."""
    return f"{POOL}{code} {_NUMBERS.sub('#', text)}"[:MAX_REASON].rstrip()

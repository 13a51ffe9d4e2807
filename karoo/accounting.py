"""Per-worker share accounts, cadence, hashrate; the periodic report.

Kept for every worker name over all its sessions, and once for all together.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Any

from karoo import units
from karoo.metrics import Latency, Tally
from karoo.stratum import difficulty as dif

BUCKET = 15  # seconds
BUCKETS = 3600 // BUCKET  # the windows reach back an hour
MAX_WORKERS = 50_000  # names beyond share one account
OTHER = "(other)"
STALE = "stale"
MINUTES = (1, 15, 60)


class Window:
    """Sums in buckets of 15 s over the last hour: accepted difficulty, or shares. A ring that is made when needed."""

    __slots__ = ("_newest", "_ring")

    def __init__(self) -> None:
        self._ring: array[float] | None = None
        self._newest = 0  # number of the newest bucket; its place in the ring is that modulo BUCKETS

    def add(self, amount: float, now: float) -> None:
        bucket = int(now // BUCKET)
        if self._ring is None:
            self._ring, self._newest = array("d", bytes(8 * BUCKETS)), bucket
        elif bucket != self._newest:
            self._turn(self._ring, bucket)
        self._ring[bucket % BUCKETS] += amount

    def _turn(self, ring: array[float], bucket: int) -> None:
        """Empty the places of the buckets that were passed over, up to the present one."""
        for passed in range(max(self._newest, bucket - BUCKETS) + 1, bucket + 1):
            ring[passed % BUCKETS] = 0.0
        self._newest = max(self._newest, bucket)

    def per_second(self, seconds: float, now: float, since: float) -> float:
        """Mean a second over the last `seconds`, or since `since` where that is shorter."""
        if self._ring is None:
            return 0.0
        bucket = int(now // BUCKET)
        self._turn(self._ring, bucket)
        count = min(int(seconds // BUCKET), BUCKETS)
        first, last = (bucket - count + 1) % BUCKETS, bucket % BUCKETS
        ring = self._ring
        total = sum(ring[first:last + 1]) if first <= last else sum(ring[first:]) + sum(ring[:last + 1])
        covered = now - (bucket - count + 1) * BUCKET
        return total / max(1.0, min(covered, now - since))


class Account:
    """One worker's books. Times are monotonic seconds, work is difficulty."""

    __slots__ = ("_gap_mean", "_gap_squares", "_gaps", "accepted", "answered_here", "blocks", "first_seen", "forwarded",
                 "last_share", "name", "pool_accepted", "pool_work", "rejected", "sessions", "window", "work")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.sessions = 0
        self.first_seen = now
        self.last_share: float | None = None
        self.accepted = 0  # told true: answered here, or taken by the pool
        self.answered_here = 0  # good, and below the pool's difficulty
        self.forwarded = 0
        self.pool_accepted = 0
        self.rejected = Tally()  # by reason, the pool's as "pool: …"
        self.blocks = 0
        self.work = 0.0  # difficulty accepted, as judged here
        self.pool_work = 0.0  # difficulty that the pool took, as it pays for it
        self.window = Window()
        self._gaps, self._gap_mean, self._gap_squares = 0, 0.0, 0.0

    def credit(self, work: float, now: float) -> None:
        """A good share that was told true."""
        self.accepted += 1
        self.work += work
        self.window.add(work, now)
        if self.last_share is not None:  # Welford's running mean and variance of the interval
            gap = now - self.last_share
            self._gaps += 1
            off = gap - self._gap_mean
            self._gap_mean += off / self._gaps
            self._gap_squares += off * (gap - self._gap_mean)
        self.last_share = now

    @property
    def rejected_total(self) -> int:
        return sum(self.rejected.values())

    @property
    def cadence(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the seconds between accepted shares; None before the second."""
        return (self._gap_mean, math.sqrt(self._gap_squares / self._gaps)) if self._gaps else None

    @property
    def unused(self) -> bool:
        return not (self.sessions or self.accepted or self.forwarded)


class Accounts:
    """All the books of one proxy."""

    def __init__(self, now: float, diff1: int = dif.DIFF1_SHA256D) -> None:
        self.total = Account("", now)
        self.workers: dict[str, Account] = {}
        self._diff1 = diff1
        self._rate = Window()  # counts shares

    # ------------------------------------------------------------------ who

    def join(self, name: str, now: float) -> Account:
        """The account of a worker that has one session more."""
        account = self.workers.get(name)
        if account is None:
            name = name if len(self.workers) < MAX_WORKERS else OTHER
            account = self.workers.setdefault(name, Account(name, now))
        account.sessions += 1
        self.total.sessions += 1
        return account

    def leave(self, account: Account) -> None:
        """A session ended; a name that never sent a good share is forgotten, so that names alone fill no memory."""
        account.sessions -= 1
        self.total.sessions -= 1
        if account.unused:
            self.workers.pop(account.name, None)

    # ------------------------------------------------------------------ what

    def answered_here(self, account: Account, work: float, now: float) -> None:
        """A good share below the pool's difficulty."""
        self._rate.add(1, now)
        for book in (account, self.total):
            book.answered_here += 1
            book.credit(work, now)

    def forwarded(self, account: Account, is_block: bool) -> None:
        """A share goes to the pool, whose verdict follows."""
        for book in (account, self.total):
            book.forwarded += 1
            book.blocks += is_block

    def pool_accepted(self, account: Account, work: float, pool_work: float, now: float) -> None:
        """The pool took a share; `work` is the difficulty it was judged by here, `pool_work` what the pool pays."""
        self._rate.add(1, now)
        for book in (account, self.total):
            book.pool_accepted += 1
            book.pool_work += pool_work
            book.credit(work, now)

    def rejected(self, account: Account | None, reason: str) -> None:
        """A refused share; without an account when nobody was authorized."""
        self.total.rejected.count(reason)
        if account is not None:
            account.rejected.count(reason)

    # ------------------------------------------------------------------ the report

    def hashrates(self, account: Account, now: float) -> list[float]:
        """Hashes a second over the last 1, 15 and 60 minutes."""
        return [dif.hashrate(account.window.per_second(minutes * 60, now, account.first_seen), 1.0, self._diff1)
                for minutes in MINUTES]

    def summary(self, account: Account, now: float) -> dict[str, Any]:
        """One account as plain data."""
        cadence = account.cadence
        return {
            "worker": account.name, "sessions": account.sessions, "accepted": account.accepted,
            "rejected": account.rejected_total, "rejected_by_reason": dict(account.rejected),
            "stale": account.rejected[STALE], "below_pool": account.answered_here, "forwarded": account.forwarded,
            "pool_accepted": account.pool_accepted, "blocks": account.blocks,
            "difficulty_accepted": account.work, "pool_difficulty_accepted": account.pool_work,
            "hashrate": dict(zip(("1m", "15m", "60m"), self.hashrates(account, now), strict=True)),
            "seconds_since_share": None if account.last_share is None else round(now - account.last_share, 1),
            "cadence_seconds": None if cadence is None else round(cadence[0], 2),
            "cadence_spread_seconds": None if cadence is None else round(cadence[1], 2),
        }

    def totals(self, now: float, latency: Latency) -> dict[str, Any]:
        """All workers together as plain data."""
        waits = latency.percentiles(50, 95)
        return self.summary(self.total, now) | {
            "workers": len(self.workers), "shares_per_second": self._rate.per_second(60, now, self.total.first_seen),
            "pool_latency_ms": None if waits is None else {"p50": round(waits[0] * 1e3, 1),
                                                           "p95": round(waits[1] * 1e3, 1)},
        }

    def summaries(self, now: float) -> Iterator[dict[str, Any]]:
        """Each worker that has a session or had a share, as plain data; whoever walks may pause between two."""
        for account in list(self.workers.values()):
            yield self.summary(account, now)


def report_line(one: dict[str, Any]) -> str:
    """The summary of one worker, or of all, for people."""
    rates = " / ".join(units.hashrate(one["hashrate"][key]) for key in ("1m", "15m", "60m"))
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(one["rejected_by_reason"].items()))
    ago, cadence, latency = one["seconds_since_share"], one["cadence_seconds"], one.get("pool_latency_ms")
    return (f"{one['worker'] or 'all workers'}: {one['accepted']} accepted ({one['below_pool']} below the pool's "
            f"difficulty, {one['pool_accepted']} of {one['forwarded']} taken by the pool), {one['rejected']} rejected"
            + (f" ({reasons})" if reasons else "")
            + f", difficulty {units.difficulty(one['difficulty_accepted'])}, {rates} over 1/15/60 min, "
            + ("no share yet" if ago is None else f"last share {units.duration(ago)} ago")
            + (f", one every {cadence:g} ± {one['cadence_spread_seconds']:g} s" if cadence is not None else "")
            + (f", pool answers in {latency['p50']:g} ms (p95 {latency['p95']:g} ms)" if latency else ""))

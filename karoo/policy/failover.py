"""Which pool next, and when: in order, each with its own backoff. No I/O."""

from __future__ import annotations

import random

LONGEST_PENALTY = 3600.0  # seconds that a pool is left alone for that is of no use again and again


class Backoff:
    """Doubling waits with jitter between two bounds (seconds); reset by success.

    A pool that is sick answers, and is of no use: a handshake with it proves nothing. It is left alone for the longest
    wait, and for twice as long each time that it is sick again, until it has been of use for longer than that.
    """

    def __init__(self, shortest: float, longest: float, rng: random.Random) -> None:
        self._shortest, self._longest, self._rng = shortest, longest, rng
        self._next = shortest
        self._penalty = 0.0

    def failed(self, sick: bool = False, served: float = 0.0) -> tuple[float, float]:
        """After one more failure, before which it `served` for so many seconds: the wait until it may be tried again,
        half to all of the present step so that proxies do not knock in time; and how long other pools go before it."""
        if served > self._penalty:
            self._penalty = 0.0
        if sick:
            most = max(self._longest, LONGEST_PENALTY)
            self._penalty = min(2 * self._penalty, most) if self._penalty else self._longest
            self._next = self._longest
        step, self._next = self._next, min(self._next * 2, self._longest)
        jitter = self._rng.uniform(0.5, 1.0)
        return max(self._shortest / 2, step * jitter), self._penalty * jitter if sick else 0.0

    def succeeded(self) -> None:
        self._next = self._shortest


class PoolOrder:
    """The pools in order of preference; the first whose wait is over is next.

    A pool that was of no use is also behind all others for a while: it is better than none, and nothing else. The
    operator may have ``preferred`` one, which goes before all others then.
    """

    def __init__(self, backoffs: list[Backoff]) -> None:
        self._backoffs = backoffs
        self._retry_at = [0.0] * len(backoffs)
        self._behind_until = [0.0] * len(backoffs)
        self.preferred: int | None = None

    def rank(self, index: int) -> int:
        """The lower, the better."""
        return -1 if index == self.preferred else index

    def prefer(self, index: int) -> None:
        """The operator wants this pool, at once and whatever was wrong with it."""
        self.preferred = index if index else None  # the first one is preferred anyway
        self._retry_at[index] = self._behind_until[index] = 0.0

    def next(self, now: float) -> tuple[int, float]:
        """Number of the pool to try next, and the seconds to wait before."""
        ready = [index for index in self._ranked if self._retry_at[index] <= now]
        if ready:
            return next((index for index in ready if self._behind_until[index] <= now), ready[0]), 0.0
        index = min(range(len(self._retry_at)), key=self._retry_at.__getitem__)
        return index, self._retry_at[index] - now

    def better(self, index: int, now: float) -> int | None:
        """The best pool before this one that may be tried now."""
        return next((better for better in self._ranked if self.rank(better) < self.rank(index)
                     and max(self._retry_at[better], self._behind_until[better]) <= now), None)

    @property
    def _ranked(self) -> list[int]:
        return sorted(range(len(self._retry_at)), key=self.rank)

    def failed(self, index: int, now: float, sick: bool = False, served: float = 0.0) -> float:
        """A pool went down after it served for so many seconds; the seconds until it may be tried again (for one that
        is sick: as long as another one can be had)."""
        wait, behind = self._backoffs[index].failed(sick, served)
        self._retry_at[index] = now + wait
        self._behind_until[index] = max(self._behind_until[index], now + behind)
        return max(wait, behind) if len(self._backoffs) > 1 else wait

    def postpone(self, index: int, until: float) -> None:
        """Somebody else found a pool down, and leaves it alone until then."""
        self._retry_at[index] = max(self._retry_at[index], until)

    def succeeded(self, index: int) -> None:
        """A pool sent a job."""
        self._backoffs[index].succeeded()
        self._retry_at[index] = 0.0


class Refusals:
    """How many of the last shares a pool refused: over some 5 to 10 minutes."""

    HALF = 300.0  # seconds; the window is what came in the present half and in the one before
    FEWEST = 20  # shares from which a ratio is told

    def __init__(self) -> None:
        self._since = 0.0
        self._former = (0, 0)  # shares, and refused ones
        self._shares = self._refused = 0

    def count(self, accepted: bool, now: float) -> None:
        """One verdict. `now` is in monotonic seconds."""
        if now - self._since >= self.HALF:
            self._former = (self._shares, self._refused) if now - self._since < 2 * self.HALF else (0, 0)
            self._since, self._shares, self._refused = now, 0, 0
        self._shares += 1
        self._refused += not accepted

    @property
    def ratio(self) -> float | None:
        """The part that was refused, from 0 to 1; None while there are too few shares to tell."""
        shares = self._shares + self._former[0]
        return (self._refused + self._former[1]) / shares if shares >= self.FEWEST else None


def same_site(ours: str, theirs: str) -> bool:
    """Whether client.reconnect may lead from one host to another: the same, or one in its parent domain
    (a.pool.example and b.pool.example). Whoever speaks for the pool could otherwise send the hashrate anywhere.
    """
    ours, theirs = ours.lower().rstrip("."), theirs.lower().rstrip(".")
    if ours == theirs:
        return True
    if ours.replace(".", "").isdigit() or ":" in ours:  # an address has no parent
        return False
    parent = ours.partition(".")[2] if ours.count(".") > 1 else ours
    *_, second, country = ["", *parent.split(".")]
    if parent.count(".") == 1 and len(country) == 2 and len(second) <= 3:  # co.uk, com.br, or.jp: anybody's
        parent = ours
    return "." in parent and (theirs == parent or theirs.endswith("." + parent))
